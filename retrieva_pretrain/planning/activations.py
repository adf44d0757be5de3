"""What the forward pass keeps for backward and what a backward pass adds, by formula: bytes of one sample on one GPU.

Counted are the tensors that autograd saves in megatron-core's own layers (0.16.1, 0.19.2) on CUDA, each storage once,
after the method of Korthikanti et al., "Reducing Activation Recomputation in Large Transformer Models" (2022), with the
widths of this model: fewer key-value heads, a gated feed-forward part, a head on scored positions only. With s positions,
width h, feed-forward width f, a heads, g key-value heads of size d, e bytes an element (2 in bf16, 4 in fp32), m
scored positions, vocabulary v:

    layer        e s (6 h + 2 g d + 5 f) and 2 s h for dropout's masks, one byte for each element
                 = the inputs and outputs of both norms, query-key-value, the attention's output, and of SwiGLU its
                 input, the gate's activation, the other half, their product; fused SwiGLU: 3 f, input and product
    attention    unfused: 4 a s s (softmax in fp32), (1 + e) a s s with dropout (its mask, its output) or e a s s in
                 bf16 without, and 2 e s h where keys and values are repeated for all heads
                 SDPA and flash: 4 a s (one number for each row of scores), and e s h inside documents
                 Tensor parallelism beyond the g groups gathers query-key-value of all heads: none of it is divided.
                 SDPA copies the queries of several groups on one GPU: e s h more.
    embedding    s h (dropout's mask)
    head         2 e s h (the final norm's input and output), 4 e m h, and 4 m v for the softmax over the vocabulary

The backward pass of a layer, which begins with its second half, adds:

    second half  e s (h + 2 f): gradients, while what they replace goes
    attention    unfused: 12 a s s in all at the softmax (its output, and its gradients in fp32), or e a s s where that
                 is more
                 SDPA: 4 s h (the query's gradient in fp32), 4 a s, and e s h for the query's gradient, and 2 e s h
                 where keys and values serve several heads, whose gradients are made for each

Tests hold these figures against a trace of the real model (`retrieva_pretrain/tracing`), and what is kept against what
autograd saves in it.
"""

from __future__ import annotations

from dataclasses import dataclass

from retrieva_pretrain.recipe.kernels import resolve_kernels
from retrieva_pretrain.recipe.layout import scored_slots
from retrieva_pretrain.recipe.schema import Recipe, Stage


@dataclass(frozen=True)
class Activations:
    """Bytes of one sample on one GPU."""

    layer: float
    """One layer, all but its attention between the projections."""

    attention: float
    """Of one layer, between the projections."""

    second_half: float
    """The part of `layer` that is gone when the backward pass of the layer comes to its attention."""

    kept_of_recomputed_layer: float
    """What stays of a layer that is computed again: its input."""

    attention_backward: float
    """What the backward pass of one layer's attention adds."""

    second_half_backward: float
    """What the backward pass of one layer's second half adds."""

    buffer: float
    """What megatron-core keeps for all layers together, once."""

    embedding: float
    head: float
    """Final norm and head, without the logits."""

    logits: float
    """Scores of all pieces at the scored positions, in the form that is kept."""

    logits_peak: float
    """The same at the moment when most of it is there: beside the softmax its input, or its gradient."""

    logits_gradient: float
    """Their gradient when the head's matrix gets its own."""


def count_activations(recipe: Recipe, index: int, padded_vocab_size: int) -> Activations:
    """Count the activations of one sample of stage `index`, with the kernels that the recipe takes on CUDA."""
    model = recipe.model
    s, h, f = recipe.curriculum[index].seq_length, model.hidden_size, model.ffn_hidden_size
    e = 2 if recipe.precision == "bf16" else 4
    tensor = recipe.parallelism.tensor_model_parallel_size
    # Sequence parallelism divides what stands between the divided matrices.
    between = tensor if recipe.parallelism.sequence_parallel else 1
    slots = scored_slots(recipe.masking_probability(index), s)
    is_fused = resolve_kernels(recipe, "cuda").bias_activation_fusion
    mask = s * h if model.hidden_dropout else 0
    second_half = (e * s * 2 * h + mask) / between + e * s * (3 if is_fused else 5) * f / tensor
    scores = model.num_attention_heads * s * s if _keeps_scores(recipe) else 0
    # Unfused attention writes its products there; sequence parallelism gathers a layer's input into it.
    gathered = s * h if recipe.parallelism.sequence_parallel else 0
    return Activations(
        layer=(e * s * 2 * h + mask) / between
        + e * s * h / tensor
        + e * s * _query_key_value(recipe, index)
        + second_half,
        attention=_attention(recipe, s, e) / tensor,
        second_half=second_half,
        kept_of_recomputed_layer=e * s * h / between,
        attention_backward=_attention_backward(recipe, s, e) / tensor + e * s * 2 * h / between,
        second_half_backward=e * s * h / between + e * s * 2 * f / tensor,
        buffer=e * max(scores / tensor, gathered),
        embedding=mask / between,
        # The norm's output is gathered over the sequence before positions are picked from it.
        head=e * s * h / between + e * s * h + e * slots * 4 * h,
        logits=4 * slots * padded_vocab_size / tensor,
        logits_peak=(4 + e) * slots * padded_vocab_size / tensor,
        logits_gradient=e * slots * padded_vocab_size / tensor,
    )


def _query_key_value(recipe: Recipe, index: int) -> float:
    """Return the width of query, key and value as they are kept for one position."""
    model, tensor = recipe.model, recipe.parallelism.tensor_model_parallel_size
    width = model.hidden_size + 2 * model.num_query_groups * model.kv_channels
    # Unfused attention copies what it reads, unless it is computed again: then its input is kept.
    is_copied = (
        recipe.curriculum[index].recompute_granularity != "selective"
        if _keeps_scores(recipe)
        else _copies_samples(recipe)
    )
    if is_copied or model.num_query_groups == model.num_attention_heads:
        return width / tensor
    if model.num_query_groups < tensor:
        return width
    # The queries of several groups lie between their keys and values: they are copied out.
    return (width + (model.hidden_size if model.num_query_groups > tensor else 0)) / tensor


def _keeps_scores(recipe: Recipe) -> bool:
    return resolve_kernels(recipe, "cuda").keeps_scores


def _copies_samples(recipe: Recipe) -> bool:
    """Whether attention without scores copies what it reads and writes, to lay samples end to end."""
    return recipe.data.reset_attention_mask and recipe.kernels.transformer_impl == "local"


def _scores(recipe: Recipe, e: int) -> int:
    """Return the bytes that unfused attention keeps for each score."""
    if recipe.model.attention_dropout:
        return 4 + 1 + e
    # In fp32 the softmax's output is what is multiplied with the values; in bf16 there is a copy.
    return 4 + e if e < 4 else 4


def _attention(recipe: Recipe, s: int, e: int) -> float:
    model = recipe.model
    a = model.num_attention_heads
    if not _keeps_scores(recipe):
        # Inside documents the kernel keeps its output sample after sample, and the projection a copy.
        return 4 * a * s + (e * s * model.hidden_size if _copies_samples(recipe) else 0)
    repeated = 2 * e * s * model.hidden_size if model.num_query_groups < a else 0
    return _scores(recipe, e) * a * s * s + repeated


def _attention_backward(recipe: Recipe, s: int, e: int) -> float:
    model = recipe.model
    a, h = model.num_attention_heads, model.hidden_size
    if _keeps_scores(recipe):
        # 12 in the softmax's backward pass: its output, the gradient and the new gradient in fp32.
        return (max(12, _scores(recipe, e) + e) - _scores(recipe, e)) * a * s * s
    for_each_head = 2 * e * s * h if model.num_query_groups < a else 0
    return 4 * s * h + 4 * a * s + e * s * h + for_each_head


def kept_by_layers(stage: Stage, activations: Activations, layers: int) -> float:
    """Return the bytes that so many layers of one GPU keep for one sample, with the stage's recomputation."""
    whole = activations.layer + activations.attention
    if stage.recompute_granularity == "selective":
        return layers * activations.layer
    if stage.recompute_granularity == "full":
        again = min(stage.recompute_num_layers or layers, layers)
        return again * activations.kept_of_recomputed_layer + (layers - again) * whole
    return layers * whole


def computed_again_at_once(stage: Stage, activations: Activations, layers: int) -> float:
    """Return the bytes of what is being computed again when the backward pass begins: one layer, or its attention.

    Where only the first `recompute_num_layers` layers are computed again, the last one is not. When the backward pass
    comes to the first ones, it has let go of more than it computes again.
    """
    if stage.recompute_granularity == "selective":
        return activations.attention
    if stage.recompute_granularity == "full" and (stage.recompute_num_layers or layers) >= layers:
        return activations.layer + activations.attention
    return 0.0


def backward_of_a_layer(stage: Stage, activations: Activations) -> float:
    """Return the bytes that the backward pass of a layer adds to what is kept and computed again, at most."""
    in_attention = activations.attention_backward - activations.second_half
    in_second_half = activations.second_half_backward
    if stage.recompute_granularity == "selective":  # its attention is not there yet
        in_second_half -= activations.attention
    return max(in_attention, in_second_half)
