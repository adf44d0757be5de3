"""The sections of a recipe that say what is learnt: the model, its data, objective, optimizer and curriculum.

Names are Megatron's own for Megatron's own things. Rules that join fields of one section stand beside the
fields, those that join sections in `schema.py`; what depends on the number of processes is in `layout.py`.

A validator that refuses several fields together begins each line of its message with the field to change,
`field.path: what is wrong`, so that `loading.py` can name the line of the file where that field stands.
"""

from __future__ import annotations

import math
import os
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from retrieva_pretrain.recipe.fields import (
    MaskingRate,
    PlainText,
    PositiveFloat,
    PositiveInt,
    Probability,
    Section,
    Share,
    TokenBudget,
    refuse,
)


class ModelConfig(Section):
    """The encoder: pre-norm, SwiGLU, biases, learned absolute positions, a masked-LM head."""

    num_layers: PositiveInt = Field(description="Transformer layers.")
    hidden_size: PositiveInt = Field(description="Width of the model.")
    ffn_hidden_size: PositiveInt = Field(description="Width of each of the two halves of SwiGLU.")
    num_attention_heads: PositiveInt = Field(description="Attention heads.")
    num_query_groups: PositiveInt = Field(
        description="Key-value heads: 1 is multi-query attention, num_attention_heads is multi-head."
    )
    max_position_embeddings: PositiveInt = Field(
        description="Learned positions; allocated from the first stage, so as long as the longest one."
    )
    layernorm_epsilon: PositiveFloat = Field(default=1e-5, description="LayerNorm epsilon.")
    hidden_dropout: Probability = Field(default=0.1, description="Dropout on hidden states.")
    attention_dropout: Probability = Field(default=0.1, description="Dropout on attention probabilities.")
    init_method_std: PositiveFloat = Field(
        default=0.02, description="Standard deviation of the initial weights."
    )
    share_embeddings_and_output_weights: bool = Field(
        default=True, description="Whether the head uses the word embedding's matrix (tied embeddings)."
    )

    @property
    def kv_channels(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @model_validator(mode="after")
    def _divides(self) -> ModelConfig:
        heads, problems = self.num_attention_heads, []
        if self.hidden_size % heads:
            near = heads * max(1, round(self.hidden_size / heads))
            problems.append(
                f"hidden_size: {self.hidden_size} is not divisible by num_attention_heads {heads};"
                f" use a multiple of it such as {near}"
            )
        if heads % self.num_query_groups:
            problems.append(
                f"num_query_groups: {self.num_query_groups} does not divide num_attention_heads {heads};"
                f" use 1 (multi-query), {heads} (multi-head) or a divisor between"
            )
        return refuse(self, problems)


class TokenizerConfig(Section):
    """The SentencePiece model that made the corpora."""

    model: PlainText = Field(description="Path of the SentencePiece model, from the working directory.")
    make_vocab_size_divisible_by: PositiveInt = Field(
        default=128, description="The vocabulary is padded to a multiple of this, whatever the parallelism."
    )


class Corpus(Section):
    """One corpus of the blend."""

    path: PlainText = Field(
        description="Prefix of the indexed dataset, from the working directory; PATH.bin, PATH.idx and"
        " PATH.manifest.json make it up."
    )
    weight: PositiveFloat | None = Field(
        default=None,
        description="Share of the samples, in any unit; without weights, shares follow the corpora's tokens.",
    )
    tokens: TokenBudget | None = Field(
        default=None,
        description="Instead of a weight: tokens of this corpus that the run shall read, repetitions counted.",
    )

    @field_validator("path")
    @classmethod
    def _is_a_prefix(cls, path: str) -> str:
        if path.endswith((".bin", ".idx")):
            raise ValueError(f"give the prefix that .bin and .idx have in common: {path[:-4]}")
        return path


class DataConfig(Section):
    """What the model reads."""

    blend: Annotated[list[Corpus], Field(min_length=1)] = Field(description="The corpora.")
    held_out_fraction: Annotated[float, Field(ge=0, le=0.5, allow_inf_nan=False)] = Field(
        default=0.001, description="Share of each corpus's documents kept for evaluation, chosen by hash."
    )
    reset_attention_mask: bool = Field(
        default=False,
        description="Whether attention stays inside documents; every corpus must be built with <CLS> and <SEP>"
        " round its documents.",
    )
    reset_position_ids: bool = Field(
        default=False, description="Whether positions begin at 0 in every document of a sample."
    )
    index_dir: PlainText | None = Field(
        default=None,
        description="Folder of the indexes of the documents' order, which large corpora need; by default beside"
        " each corpus. `retrieva data index` makes them beforehand.",
    )
    prefetch_micro_batches: Annotated[int, Field(ge=0, le=10_000)] = Field(
        default=16,
        description="Micro-batches that each process makes ready ahead, beside the training; 0 makes them in turn.",
    )

    @field_validator("blend")
    @classmethod
    def _blend_is_consistent(cls, blend: list[Corpus]) -> list[Corpus]:
        problems = []
        weighted = [corpus.weight is not None for corpus in blend]
        budgeted = [corpus.tokens is not None for corpus in blend]
        if any(weighted) and any(budgeted):
            problems.append(
                f"{budgeted.index(True)}.tokens: shares are weights or token budgets, not both; null unsets one"
            )
        else:
            for given, field, a_value in ((weighted, "weight", "a weight"), (budgeted, "tokens", "a budget")):
                if any(given) and not all(given):
                    problems.append(
                        f"{given.index(False)}.{field}: missing; give every corpus {a_value}, or none of them"
                    )
        first: dict[str, int] = {}
        for number, corpus in enumerate(blend):
            earlier = first.setdefault(os.path.normpath(corpus.path), number)
            if earlier != number:
                problems.append(f"{number}.path: {corpus.path} is corpus {earlier} already; name it once")
        if problems:
            raise ValueError("\n".join(problems))
        return blend


class ObjectiveConfig(Section):
    """Masked language modelling: which tokens must be predicted, and what stands in their place meanwhile."""

    masking_probability: MaskingRate = Field(
        default=0.15,
        description="Share of a sample's tokens that the model must predict; a stage may have its own.",
    )
    masking_unit: Literal["token", "whole_word", "span"] = Field(
        default="token",
        description="What is chosen together: single tokens, words, or spans of words (docs/data-in-training.md).",
    )
    mean_span_length: Annotated[float, Field(ge=1, allow_inf_nan=False)] | None = Field(
        default=None, description="Span: words of a span on average; 3.8 where it is not given."
    )
    max_span_length: PositiveInt | None = Field(
        default=None, description="Span: words of a span at most; 10 where it is not given."
    )
    mask_replace_prob: Share = Field(
        default=0.8, description="Share of the chosen tokens that become the mask."
    )
    random_replace_prob: Share = Field(
        default=0.1, description="Share of the chosen tokens that become a random one; the rest stay."
    )

    @property
    def span_lengths(self) -> tuple[float, int]:
        """Mean and longest length of a span in words: SpanBERT's where the recipe does not say."""
        return self.mean_span_length or 3.8, self.max_span_length or 10

    @model_validator(mode="after")
    def _fits(self) -> ObjectiveConfig:
        problems = []
        for name in ("mean_span_length", "max_span_length"):
            if self.masking_unit != "span" and getattr(self, name) is not None:
                problems.append(f"{name}: goes with masking_unit span, not {self.masking_unit}")
        mean, longest = self.span_lengths
        if self.masking_unit == "span" and mean > longest:
            problems.append(f"mean_span_length: {mean} is more than max_span_length {longest}")
        if self.mask_replace_prob + self.random_replace_prob > 1 + 1e-9:
            problems.append(
                f"random_replace_prob: {self.random_replace_prob} and mask_replace_prob"
                f" {self.mask_replace_prob} are more than all of the chosen tokens"
            )
        return refuse(self, problems)


class OptimizerConfig(Section):
    """Adam with decoupled weight decay (none on biases and norms), and the learning rate over the run."""

    lr: PositiveFloat = Field(description="Highest learning rate.")
    min_lr: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(default=0.0, description="Lowest one.")
    lr_decay_style: Literal["linear", "cosine", "constant", "inverse-square-root", "WSD"] = Field(
        default="linear", description="How the learning rate falls after the warm-up."
    )
    lr_warmup_fraction: Probability | None = Field(
        default=None, description="Share of the schedule's steps in which the learning rate rises from 0."
    )
    lr_warmup_iters: Annotated[int, Field(ge=0, lt=2**31)] | None = Field(
        default=None, description="The same as a number of steps."
    )
    lr_wsd_decay_style: Literal["exponential", "linear", "cosine", "minus_sqrt"] = Field(
        default="exponential", description="WSD: how the learning rate falls at the end."
    )
    lr_wsd_decay_iters: PositiveInt | None = Field(
        default=None, description="WSD: steps of the fall at the end."
    )
    adam_beta1: Probability = Field(default=0.9, description="Decay of the first moment.")
    adam_beta2: Probability = Field(default=0.999, description="Decay of the second moment.")
    adam_eps: PositiveFloat = Field(default=1e-8, description="Adam's epsilon.")
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=0.01, description="Decoupled weight decay."
    )
    clip_grad: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=1.0, description="The gradient's norm is clipped to this; 0 never clips."
    )

    def warmup_steps(self, steps: int) -> int:
        """Return the steps of the warm-up in a schedule of so many steps; a fraction of them rounds down."""
        if self.lr_warmup_iters is not None:
            return self.lr_warmup_iters
        # A product such as 0.29 x 100 falls a hair below the whole number it means.
        return math.floor((self.lr_warmup_fraction or 0.0) * steps * (1 + 1e-12))

    @model_validator(mode="after")
    def _schedule(self) -> OptimizerConfig:
        problems = []
        if self.min_lr > self.lr:
            problems.append(f"min_lr: {self.min_lr} is above lr {self.lr}")
        if self.lr_warmup_fraction is not None and self.lr_warmup_iters is not None:
            problems.append(
                "lr_warmup_iters: give lr_warmup_fraction or lr_warmup_iters, not both; null unsets one"
            )
        if self.lr_decay_style == "WSD" and self.lr_wsd_decay_iters is None:
            problems.append("lr_decay_style: WSD needs lr_wsd_decay_iters, the steps of its fall at the end")
        if self.lr_decay_style != "WSD" and self.lr_wsd_decay_iters is not None:
            problems.append(f"lr_wsd_decay_iters: goes with lr_decay_style WSD, not {self.lr_decay_style}")
        return refuse(self, problems)


class Stage(Section):
    """One stage of the curriculum."""

    # Masks are drawn by the position in 2^20 places a sample.
    seq_length: Annotated[int, Field(ge=8, le=2**20)] = Field(description="Length of the samples in tokens.")
    train_iters: PositiveInt = Field(description="Optimizer steps.")
    max_micro_batch_size: PositiveInt = Field(
        description="Ceiling of the samples in one forward pass of one process; the run takes the largest"
        " divisor of global_batch_size / data-parallel size not above it."
    )
    name: PlainText | None = Field(default=None, description="A name for logs and pictures.")
    recompute_granularity: Literal["full", "selective"] | None = Field(
        default=None,
        description="What is computed again for backward instead of kept: whole layers (full), or the attention of"
        " each (selective).",
    )
    recompute_num_layers: PositiveInt | None = Field(
        default=None,
        description="With full: layers of each pipeline stage that are computed again; all where it is not given.",
    )
    masking_probability: MaskingRate | None = Field(
        default=None, description="The stage's own masking rate instead of objective.masking_probability."
    )

    @model_validator(mode="after")
    def _recomputes(self) -> Stage:
        problems = []
        if self.recompute_num_layers is not None and self.recompute_granularity != "full":
            problems.append(
                "recompute_num_layers: goes with recompute_granularity full; set that, or leave it out"
            )
        return refuse(self, problems)
