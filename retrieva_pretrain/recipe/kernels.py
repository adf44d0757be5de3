"""Which kernels a recipe runs on a kind of device: what `auto` and null mean, resolved in one place. No torch.

A recipe that leaves the choice open takes the fastest kernels that need no extra package: on CUDA
`scaled_dot_product_attention` and megatron-core's compiled fusions, on the CPU megatron-core's unfused code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from retrieva_pretrain.recipe.schema import Recipe, Stage

DeviceType = Literal["cuda", "cpu"]
AttentionKernel = Literal["unfused", "sdpa", "transformer_engine"]
Granularity = Literal["selective", "full"]


@dataclass(frozen=True)
class ResolvedKernels:
    """The kernels of a run on one kind of device."""

    attention: AttentionKernel
    """`unfused`: megatron-core's own, which materialises the scores. `sdpa`: torch's fused kernels.
    `transformer_engine`: Transformer Engine's, by `kernels.attention_backend`."""

    keeps_scores: bool
    """Whether the attention keeps its [b, heads, s, s] scores for backward."""

    bias_activation_fusion: bool
    bias_dropout_fusion: bool
    gradient_accumulation_fusion: bool
    compile_layers: bool
    fp8: str | None


def resolve_kernels(recipe: Recipe, device_type: DeviceType) -> ResolvedKernels:
    """Return the kernels that `recipe` runs on devices of this type."""
    kernels, on_cuda = recipe.kernels, device_type == "cuda"

    def choice(value: bool | None) -> bool:
        return on_cuda if value is None else value

    attention = _attention(recipe, device_type)
    return ResolvedKernels(
        attention=attention,
        keeps_scores=attention == "unfused"
        or (attention == "transformer_engine" and kernels.attention_backend == "unfused"),
        bias_activation_fusion=choice(kernels.bias_activation_fusion),
        bias_dropout_fusion=choice(kernels.bias_dropout_fusion),
        # The fused product marks the parameter whose gradient it adds, which no graph can hold.
        gradient_accumulation_fusion=choice(kernels.gradient_accumulation_fusion)
        and not kernels.compile_layers,
        compile_layers=kernels.compile_layers,
        fp8=kernels.fp8,
    )


def _attention(recipe: Recipe, device_type: DeviceType) -> AttentionKernel:
    if recipe.kernels.transformer_impl == "transformer_engine":
        return "transformer_engine"
    if recipe.kernels.attention_backend == "unfused":
        return "unfused"
    if recipe.kernels.attention_backend == "sdpa" or device_type == "cuda":
        return "sdpa"
    return "unfused"


def recompute_granularity(stage: Stage, kernels: ResolvedKernels) -> Granularity | None:
    """Return what a stage recomputes with these kernels.

    `selective` drops the attention scores and computes them again. Where the attention keeps no scores, this saves
    nothing and repeats work: it is ignored (`ignored_choices` says so).
    """
    if stage.recompute_granularity == "selective" and not kernels.keeps_scores:
        return None
    return stage.recompute_granularity


def without_ignored_choices(recipe: Recipe, device_type: DeviceType) -> Recipe:
    """Return the recipe with the recomputation that its stages really do on devices of this type."""
    kernels = resolve_kernels(recipe, device_type)
    stages = [
        stage.model_copy(update={"recompute_granularity": recompute_granularity(stage, kernels)})
        for stage in recipe.curriculum
    ]
    return recipe.model_copy(update={"curriculum": stages})


def ignored_choices(recipe: Recipe, device_type: DeviceType) -> list[str]:
    """Return one message for each choice of the recipe that has no use with the kernels it resolves to."""
    kernels = resolve_kernels(recipe, device_type)
    return [
        f"curriculum.{number}.recompute_granularity: selective is ignored: {kernels.attention} attention keeps no"
        " scores, so recomputing it would save nothing. Remove it, or choose full"
        for number, stage in enumerate(recipe.curriculum)
        if stage.recompute_granularity is not None and recompute_granularity(stage, kernels) is None
    ]
