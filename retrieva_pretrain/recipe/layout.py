"""How a recipe divides over a number of processes."""

from __future__ import annotations

from dataclasses import dataclass

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


def stage_layouts(recipe: Recipe, world_size: int) -> tuple[StageLayout, ...]:
    """Divide every stage's global batch over `world_size` processes.

    Raises RecipeError, naming the numbers of processes that would do, where it does not divide.
    """
    model_parallel = (
        recipe.parallelism.tensor_model_parallel_size * recipe.parallelism.pipeline_model_parallel_size
    )
    data_parallel, rest = divmod(world_size, model_parallel)
    if rest or not data_parallel or recipe.global_batch_size % data_parallel:
        possible = [model_parallel * d for d in divisors(recipe.global_batch_size)]
        smaller = [n for n in possible if n < world_size][-2:]
        larger = [n for n in possible if n > world_size][:2]
        raise RecipeError(
            f"global_batch_size {recipe.global_batch_size} cannot be divided over {world_size} processes"
            f" (each copy of the model takes {model_parallel}). Use"
            f" {' or '.join(str(n) for n in [*smaller, *larger])} processes, or change global_batch_size."
        )
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


def check_vocabulary(recipe: Recipe, vocab_size: int) -> None:
    """Raise RecipeError where the padded vocabulary does not divide over the tensor-parallel processes."""
    padded = padded_vocab_size(vocab_size, recipe.tokenizer.make_vocab_size_divisible_by)
    tensor = recipe.parallelism.tensor_model_parallel_size
    if padded % tensor:
        raise RecipeError(
            f"tokenizer.make_vocab_size_divisible_by: the vocabulary of {vocab_size} is padded to {padded}, which"
            f" parallelism.tensor_model_parallel_size {tensor} does not divide; use a multiple of {tensor}."
        )
