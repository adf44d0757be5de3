"""The memory of a run on each GPU, stage by stage, by formula."""

from __future__ import annotations

from dataclasses import dataclass

from retrieva_pretrain.planning.activations import (
    AttentionBackend,
    computed_again_at_once,
    count_activations,
    kept_by_layers,
)
from retrieva_pretrain.planning.parameters import rank_parameters
from retrieva_pretrain.recipe.layout import StageLayout
from retrieva_pretrain.recipe.schema import Recipe


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes on the GPU that has the most to hold."""

    weights: int
    gradients: int
    """In fp32, as they are summed up and reduced."""

    optimizer: int
    """Adam's two moments and, in bf16, the fp32 weights; the distributed optimizer's share."""

    activations: int
    """Kept for backward, of all micro-batches that are under way."""

    recomputation: int
    """What is being computed again at a moment, at most."""

    logits: int

    @property
    def total(self) -> int:
        """All of it."""
        return (
            self.weights
            + self.gradients
            + self.optimizer
            + self.activations
            + self.recomputation
            + self.logits
        )


def stage_memory(
    recipe: Recipe, index: int, layout: StageLayout, padded_vocab_size: int, backend: AttentionBackend
) -> MemoryPlan:
    """Plan the memory of stage `index` on the GPU of the pipeline stage that needs the most."""
    pipeline = recipe.parallelism.pipeline_model_parallel_size
    plans = [
        _rank_memory(recipe, index, layout, padded_vocab_size, backend, rank) for rank in range(pipeline)
    ]
    return max(plans, key=lambda plan: plan.total)


def _rank_memory(
    recipe: Recipe,
    index: int,
    layout: StageLayout,
    padded_vocab_size: int,
    backend: AttentionBackend,
    pipeline_rank: int,
) -> MemoryPlan:
    parallelism, stage = recipe.parallelism, recipe.curriculum[index]
    pipeline = parallelism.pipeline_model_parallel_size
    is_first, is_last = pipeline_rank == 0, pipeline_rank == pipeline - 1
    parameters = rank_parameters(recipe, padded_vocab_size, pipeline_rank)
    is_bf16 = recipe.precision == "bf16"
    shares = layout.data_parallel_size if parallelism.use_distributed_optimizer else 1
    one = count_activations(recipe, index, padded_vocab_size, backend)
    layers = recipe.model.num_layers // pipeline
    # One forward, one backward in turn: a pipeline stage is ahead by the stages behind it.
    under_way = min(pipeline - pipeline_rank, layout.num_microbatches)
    kept = under_way * (kept_by_layers(stage, one, layers) + (one.embedding if is_first else 0))
    samples = layout.micro_batch_size
    return MemoryPlan(
        weights=parameters * (2 if is_bf16 else 4),
        gradients=parameters * 4,
        optimizer=-(-parameters * (12 if is_bf16 else 8) // shares),
        activations=int(samples * (kept + (one.head if is_last else 0))),
        recomputation=int(samples * computed_again_at_once(stage, one)),
        logits=int(samples * one.logits_peak) if is_last else 0,
    )
