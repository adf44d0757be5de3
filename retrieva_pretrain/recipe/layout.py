"""How a recipe divides over a number of processes."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from retrieva_pretrain.errors import RecipeError
from retrieva_pretrain.recipe.schema import Recipe


@dataclass(frozen=True)
class StageLayout:
    """One stage's batch on every process."""

    data_parallel_size: int
    micro_batch_size: int
    """Samples of one forward pass."""

    num_microbatches: int
    """Forward passes of one process in a step (gradient accumulation)."""


def scored_slots(masking_probability: float, seq_length: int) -> int:
    """Return on how many positions of a sample the head runs, ceil(p x L): the same for every sample of a stage."""
    return max(1, ceil(masking_probability * seq_length))


def model_parallel_size(recipe: Recipe) -> int:
    """Return how many processes hold one copy of the model."""
    sizes = recipe.parallelism
    return sizes.tensor_model_parallel_size * sizes.pipeline_model_parallel_size


def possible_world_sizes(recipe: Recipe) -> list[int]:
    """Return, ascending, the numbers of processes over which the recipe can be divided."""
    return [model_parallel_size(recipe) * copies for copies in divisors(recipe.global_batch_size)]


def stage_layouts(recipe: Recipe, world_size: int) -> tuple[StageLayout, ...]:
    """Divide every stage's global batch over `world_size` processes.

    The micro-batch is the largest divisor of global_batch_size / data-parallel size that the stage's
    max_micro_batch_size allows.

    Raises RecipeError, naming the nearest numbers of processes that would do, where it does not divide.
    """
    possible = possible_world_sizes(recipe)
    if world_size not in possible:
        per_copy = model_parallel_size(recipe)
        near = [n for n in possible if n < world_size][-2:] + [n for n in possible if n > world_size][:2]
        reason = (
            f"one copy of the model takes {per_copy} (parallelism)"
            if world_size % per_copy
            else f"{world_size // per_copy} copies of the model do not divide"
            f" global_batch_size {recipe.global_batch_size}"
        )
        raise RecipeError(
            f"{recipe.name} cannot run on {world_size} GPUs (processes): {reason}. Use"
            f" {' or '.join(map(str, near))} of them, or change global_batch_size or parallelism."
        )
    data_parallel = world_size // model_parallel_size(recipe)
    share = recipe.global_batch_size // data_parallel
    layouts = []
    for stage in recipe.curriculum:
        micro = max(d for d in divisors(share) if d <= stage.max_micro_batch_size)
        layouts.append(StageLayout(data_parallel, micro, share // micro))
    return tuple(layouts)


def divisors(number: int) -> list[int]:
    """Return the divisors of a positive number, ascending."""
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})


def padded_vocab_size(vocab_size: int, make_vocab_size_divisible_by: int) -> int:
    """Return the rows of the embedding. Unlike Megatron-LM's rule it does not depend on the parallelism."""
    return -(-vocab_size // make_vocab_size_divisible_by) * make_vocab_size_divisible_by
