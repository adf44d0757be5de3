"""What the forward pass keeps for backward, by formula: bytes of one sample on one GPU.

Counted are the tensors that autograd saves in megatron-core's own layers (0.16.1, 0.19.2), each storage once, after the
method of Korthikanti et al., "Reducing Activation Recomputation in Large Transformer Models" (2022), with the widths of
this model: fewer key-value heads, a gated feed-forward part, a head on scored positions only. With s positions, width h,
feed-forward width f, a heads, g key-value heads of size d, e bytes an element (2 in bf16, 4 in fp32), m scored
positions, vocabulary v:

    layer        e s (6 h + 2 g d + 5 f) and 2 e s h for dropout's masks
                 = the inputs and outputs of both norms, query-key-value, the attention's output, and of SwiGLU its
                 input, the gate's activation, the other half, their product
    attention    local: 4 a s s (softmax in fp32), 2 e a s s with dropout (its mask, its output) or e a s s in bf16
                 without, and 2 e s h where keys and values are repeated for all heads
                 flash: 4 a s (one number a row); not measured here, derived
    embedding    e s h (dropout's mask)
    head         2 e s h (the final norm's input and output), 4 e m h, and 4 m v for the softmax over the vocabulary

Tests hold the local figures against what autograd saves in the built model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from retrieva_pretrain.recipe.kernels import resolve_kernels
from retrieva_pretrain.recipe.layout import scored_slots
from retrieva_pretrain.recipe.schema import Recipe, Stage

AttentionBackend = Literal["local", "flash"]


@dataclass(frozen=True)
class Activations:
    """Bytes of one sample on one GPU."""

    layer: float
    """One layer, all but its attention between the projections."""

    attention: float
    """Of one layer, between the projections."""

    kept_of_recomputed_layer: float
    """What stays of a layer that is computed again: its input."""

    embedding: float
    head: float
    """Final norm and head, without the logits."""

    logits: float
    """Scores of all pieces at the scored positions, in the form that is kept."""

    logits_peak: float
    """The same at the moment when most of it is there: beside the softmax its input, or its gradient."""


def attention_backend(recipe: Recipe) -> AttentionBackend:
    """Return which attention a recipe runs: the one that holds s x s scores, or one that does not."""
    return "local" if resolve_kernels(recipe, "cuda").keeps_scores else "flash"


def count_activations(
    recipe: Recipe, index: int, padded_vocab_size: int, backend: AttentionBackend
) -> Activations:
    """Count the activations of one sample of stage `index`."""
    model = recipe.model
    s, h, f = recipe.curriculum[index].seq_length, model.hidden_size, model.ffn_hidden_size
    kv = model.num_query_groups * model.kv_channels
    e = 2 if recipe.precision == "bf16" else 4
    tensor = recipe.parallelism.tensor_model_parallel_size
    # Sequence parallelism divides what stands between the divided matrices.
    between = tensor if recipe.parallelism.sequence_parallel else 1
    slots = scored_slots(recipe.masking_probability(index), s)
    swiglu = (
        3 if resolve_kernels(recipe, "cuda" if backend == "flash" else "cpu").bias_activation_fusion else 5
    )
    masks = e * s * h * 2 if model.hidden_dropout else 0
    return Activations(
        layer=(e * s * 4 * h + masks) / between + e * s * (2 * h + 2 * kv + swiglu * f) / tensor,
        attention=_attention(recipe, s, backend, e) / tensor,
        kept_of_recomputed_layer=e * s * h / between,
        embedding=(e * s * h if model.hidden_dropout else 0) / between,
        # The norm's output is gathered over the sequence before positions are picked from it.
        head=e * s * h / between + e * s * h + e * slots * 4 * h,
        logits=4 * slots * padded_vocab_size / tensor,
        logits_peak=(4 + e) * slots * padded_vocab_size / tensor,
    )


def _attention(recipe: Recipe, s: int, backend: AttentionBackend, e: int) -> float:
    model = recipe.model
    a = model.num_attention_heads
    if backend == "flash":
        return 4 * a * s
    # Without dropout, fp32: the softmax's output is what is multiplied with the values; in bf16 there is a copy.
    copies = 2 * e if model.attention_dropout else e if e < 4 else 0
    scores = (4 + copies) * a * s * s
    repeated = 2 * e * s * model.hidden_size if model.num_query_groups < a else 0
    return scores + repeated


def kept_by_layers(stage: Stage, activations: Activations, layers: int) -> float:
    """Return the bytes that so many layers of one GPU keep for one sample, with the stage's recomputation."""
    whole = activations.layer + activations.attention
    if stage.recompute_granularity == "selective":
        return layers * activations.layer
    if stage.recompute_granularity == "full":
        again = min(stage.recompute_num_layers or layers, layers)
        return again * activations.kept_of_recomputed_layer + (layers - again) * whole
    return layers * whole


def computed_again_at_once(stage: Stage, activations: Activations) -> float:
    """Return the bytes of what is being computed again in the backward pass, at most: one layer, or its attention."""
    if stage.recompute_granularity == "selective":
        return activations.attention
    if stage.recompute_granularity == "full":
        return activations.layer + activations.attention
    return 0.0
