"""The memory of a run on each GPU, stage by stage, by formula."""

from __future__ import annotations

from dataclasses import dataclass

from retrieva_pretrain.planning.activations import (
    Activations,
    backward_of_a_layer,
    computed_again_at_once,
    count_activations,
    kept_by_layers,
)
from retrieva_pretrain.planning.parameters import rank_parameters
from retrieva_pretrain.planning.saving import gather_bytes, largest_parameter
from retrieva_pretrain.recipe.kernels import without_ignored_choices
from retrieva_pretrain.recipe.layout import StageLayout
from retrieva_pretrain.recipe.schema import Recipe


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes on the GPU that has the most to hold, at the moment of a step when it holds the most.

    That is in the head, where the logits are, in the backward pass of a layer, or at its end, in the embedding.
    """

    weights: int
    gradients: int
    """In fp32, as they are summed up and reduced."""

    optimizer: int
    """Adam's two moments and, in bf16, the fp32 weights; the distributed optimizer's share."""

    activations: int
    """Kept for backward, of all micro-batches that are under way."""

    recomputation: int
    """What is being computed again; 0 where the head holds more."""

    backward: int
    """What the backward pass of a layer or the embedding adds: gradients of activations and of the embedding's matrix;
    0 where the head holds more."""

    logits: int
    """0 where the backward pass holds more."""

    gather: int
    """Needed to save a checkpoint, when there are no activations."""

    @property
    def static(self) -> int:
        """What is there between two steps."""
        return self.weights + self.gradients + self.optimizer

    @property
    def step(self) -> int:
        """The most during a step."""
        return self.static + self.activations + self.recomputation + self.backward + self.logits

    @property
    def total(self) -> int:
        """The most at any time: during a step, or during a save."""
        return max(self.step, self.static + self.gather)


def stage_memory(recipe: Recipe, index: int, layout: StageLayout, padded_vocab_size: int) -> MemoryPlan:
    """Plan the memory of stage `index` on the GPU of the pipeline stage that needs the most."""
    pipeline = recipe.parallelism.pipeline_model_parallel_size
    plans = [_rank_memory(recipe, index, layout, padded_vocab_size, rank) for rank in range(pipeline)]
    return max(plans, key=lambda plan: plan.total)


def _rank_memory(
    recipe: Recipe,
    index: int,
    layout: StageLayout,
    padded_vocab_size: int,
    pipeline_rank: int,
) -> MemoryPlan:
    parallelism = recipe.parallelism
    parameters = rank_parameters(recipe, padded_vocab_size, pipeline_rank)
    is_bf16 = recipe.precision == "bf16"
    shares = layout.data_parallel_size if parallelism.use_distributed_optimizer else 1
    one = count_activations(recipe, index, padded_vocab_size)
    moments = _moments(recipe, index, layout, one, padded_vocab_size, pipeline_rank)
    return MemoryPlan(
        weights=parameters * (2 if is_bf16 else 4),
        gradients=parameters * 4,
        optimizer=-(-parameters * (12 if is_bf16 else 8) // shares),
        **max(moments, key=lambda moment: sum(moment.values())),
        gather=gather_bytes(
            parameters,
            largest_parameter(recipe.model, padded_vocab_size, parallelism.tensor_model_parallel_size),
            layout.data_parallel_size,
            parallelism.use_distributed_optimizer,
        ),
    )


def _moments(
    recipe: Recipe,
    index: int,
    layout: StageLayout,
    one: Activations,
    padded_vocab_size: int,
    pipeline_rank: int,
) -> list[dict[str, int]]:
    """Return what a step adds to the static memory in the head, in the last layer's backward pass, and at its end."""
    stage = without_ignored_choices(recipe, "cuda").curriculum[index]
    samples = layout.micro_batch_size
    pipeline = recipe.parallelism.pipeline_model_parallel_size
    is_first, is_last = pipeline_rank == 0, pipeline_rank == pipeline - 1
    layers = recipe.model.num_layers // pipeline
    # One forward, one backward in turn: a pipeline stage is ahead by the stages behind it.
    under_way = min(pipeline - pipeline_rank, layout.num_microbatches)
    kept = under_way * (kept_by_layers(stage, one, layers) + (one.embedding if is_first else 0)) + one.buffer
    matrix = _matrix(recipe, padded_vocab_size)
    logits = max(samples * one.logits_peak, samples * one.logits_gradient + matrix) if is_last else 0
    # A tied matrix waits until the end of the backward pass for its gradient as an embedding; then both are added up.
    is_tied = is_first and is_last and recipe.model.share_embeddings_and_output_weights
    waiting, at_the_end = (matrix, 3 * matrix) if is_tied else (0, matrix if is_first else 0)
    nothing = {"activations": 0, "recomputation": 0, "backward": 0, "logits": 0}
    in_head = {
        "activations": int(samples * (kept + (one.head if is_last else 0))),
        "logits": int(logits),
    }
    in_layer = {
        "activations": int(samples * kept),
        "recomputation": int(samples * computed_again_at_once(stage, one, layers)),
        "backward": int(samples * backward_of_a_layer(stage, one) + waiting),
    }
    in_embedding = {
        "activations": int(samples * (one.buffer + one.embedding)),
        "backward": at_the_end,
    }
    return [nothing | moment for moment in (in_head, in_layer, in_embedding)]


def _matrix(recipe: Recipe, padded_vocab_size: int) -> int:
    """Return the bytes of the gradient of the embedding's matrix, or of the head's, in the model's precision."""
    rows = padded_vocab_size // recipe.parallelism.tensor_model_parallel_size
    return rows * recipe.model.hidden_size * (2 if recipe.precision == "bf16" else 4)
