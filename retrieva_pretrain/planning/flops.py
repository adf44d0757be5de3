"""The floating-point operations of a recipe's model, by formula.

Only the matrix products are counted, two operations for a multiplication and its addition; norms, activations,
dropout and the softmax are left out, as is usual. The counting is that of Narayanan et al., "Efficient Large-Scale
Language Model Training on GPU Clusters Using Megatron-LM" (2021), appendix, with the widths of this model: fewer
key-value heads than query heads, a gated feed-forward part, and a head that sees the scored positions only.
What activation recomputation repeats is no part of the model's operations and is not counted.
"""

from __future__ import annotations

from dataclasses import dataclass

from retrieva_pretrain.recipe.layout import scored_slots
from retrieva_pretrain.recipe.schema import ModelConfig, Recipe


@dataclass(frozen=True)
class FlopCount:
    """Floating-point operations of one sample's forward pass, by part of the model."""

    body: int
    """The linear maps of all layers."""

    attention: int
    """Scores and weighted values of all layers: every position against every other."""

    head: int
    """The masked-LM head on its slots: the transform h -> h and the product with the vocabulary's matrix."""

    @property
    def forward(self) -> int:
        """One forward pass."""
        return self.body + self.attention + self.head

    @property
    def training(self) -> int:
        """Forward and backward: every product has two in the backward pass, one for each of its factors."""
        return 3 * self.forward


def count_flops(model: ModelConfig, padded_vocab_size: int, seq_length: int, slots: int) -> FlopCount:
    """Count one sample of `seq_length` positions, `slots` of which the head is run on.

    A layer's linear maps: query-key-value h -> h + 2 x groups x head size, projection h -> h, SwiGLU h -> 2 x ffn
    and ffn -> h. Attention is computed with as many heads as the queries have, however few keys and values are
    stored: s x s x h for the scores and as much for the values. Attention that stays inside documents counts as
    if it did not.
    """
    h, ffn = model.hidden_size, model.ffn_hidden_size
    query_key_value = h + 2 * model.num_query_groups * model.kv_channels
    of_position = h * (query_key_value + h + 2 * ffn) + ffn * h
    return FlopCount(
        body=2 * model.num_layers * seq_length * of_position,
        attention=2 * model.num_layers * 2 * seq_length * seq_length * h,
        head=2 * slots * h * (h + padded_vocab_size),
    )


def training_flops(recipe: Recipe, padded_vocab_size: int) -> tuple[int, ...]:
    """Return, stage by stage, the operations of training on one sample, forward and backward."""
    return tuple(
        count_flops(
            recipe.model,
            padded_vocab_size,
            stage.seq_length,
            scored_slots(recipe.masking_probability(index), stage.seq_length),
        ).training
        for index, stage in enumerate(recipe.curriculum)
    )
