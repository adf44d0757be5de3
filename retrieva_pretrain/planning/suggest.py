"""Which layout, micro-batches and recomputation to try first on a cluster: the fastest that fits.

The order is that of the model in `throughput.py`, or of measurements where there are any: a choice that was not measured
is scaled by the nearest measurement of its length. Memory is by formula.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from retrieva_pretrain.errors import RecipeError
from retrieva_pretrain.planning.hardware import GIB, H100, Hardware
from retrieva_pretrain.planning.measured import Measured, refuse_other_model
from retrieva_pretrain.planning.memory import MemoryPlan, stage_memory
from retrieva_pretrain.planning.plan import planned_recipe
from retrieva_pretrain.planning.speed import SpeedSource
from retrieva_pretrain.recipe.kernels import resolve_kernels
from retrieva_pretrain.recipe.layout import StageLayout, divisors
from retrieva_pretrain.recipe.schema import Recipe, Stage


@dataclass(frozen=True)
class StageChoice:
    """What fits one stage."""

    micro_batch_size: int
    recompute_granularity: str | None
    memory: MemoryPlan
    seconds: float
    """Of the stage, by the model or as measured."""


@dataclass(frozen=True)
class Suggestion:
    """A layout of the run, and the fastest choice that fits for each stage."""

    tensor_model_parallel_size: int
    pipeline_model_parallel_size: int
    stages: tuple[StageChoice, ...]

    @property
    def seconds(self) -> float:
        """Of the run."""
        return sum(stage.seconds for stage in self.stages)

    def overrides(self, recipe: Recipe) -> list[str]:
        """Return the changes to the recipe, as the command line takes them."""
        made = [
            f"parallelism.tensor_model_parallel_size={self.tensor_model_parallel_size}",
            f"parallelism.pipeline_model_parallel_size={self.pipeline_model_parallel_size}",
            f"parallelism.sequence_parallel={str(self.tensor_model_parallel_size > 1).lower()}",
        ]
        for index, stage in enumerate(self.stages):
            made.append(f"curriculum.{index}.max_micro_batch_size={stage.micro_batch_size}")
            made.append(f"curriculum.{index}.recompute_granularity={stage.recompute_granularity or 'null'}")
            if recipe.curriculum[index].recompute_num_layers is not None:
                made.append(f"curriculum.{index}.recompute_num_layers=null")
        return made


def suggest(
    recipe: Recipe,
    gpus: int,
    hardware: Hardware,
    padded_vocab_size: int,
    measured: Measured | None = None,
) -> Suggestion:
    """Return the fastest of all layouts that fits so many GPUs.

    Raises:
        RecipeError: the GPUs' memory is not known, another model was measured, or nothing fits; says what is nearest.
    """
    if hardware.usable_memory is None:
        raise RecipeError(
            f"--suggest: the memory of {hardware.name}'s GPUs is not known; give the profile gpu_memory"
        )
    recipe = planned_recipe(recipe)
    if measured is not None:
        refuse_other_model(measured, recipe, padded_vocab_size)
    # An order needs no true peak: that of an H100 will do where none is known.
    source = SpeedSource(
        replace(hardware, peak_tflops=hardware.peak_tflops or H100.peak_tflops), measured=measured
    )
    found: list[Suggestion] = []
    smallest: MemoryPlan | None = None
    layouts = 0
    for changed in _layouts(recipe, gpus, hardware, padded_vocab_size):
        layouts += 1
        choices = []
        for index in range(len(recipe.curriculum)):
            options = list(_options(changed, index, gpus, padded_vocab_size))
            least = min((memory for *_, memory in options), key=lambda memory: memory.total)
            if smallest is None or least.total < smallest.total:
                smallest = least
            fitting = [o for o in options if o[2].total <= hardware.usable_memory]
            if not fitting:
                break
            timed = (_timed(option, index, padded_vocab_size, source) for option in fitting)
            choices.append(min(timed, key=lambda choice: choice.seconds))
        else:
            sizes = changed.parallelism
            found.append(
                Suggestion(
                    sizes.tensor_model_parallel_size, sizes.pipeline_model_parallel_size, tuple(choices)
                )
            )
    if found:
        return min(found, key=lambda suggestion: suggestion.seconds)
    if not layouts or smallest is None:
        near = [n for n in divisors(recipe.global_batch_size) if n <= gpus][-1]
        raise RecipeError(
            f"--suggest: no layout divides global_batch_size {recipe.global_batch_size} over {gpus} GPUs;"
            f" {near} would do"
        )
    raise RecipeError(
        f"--suggest: nothing fits {gpus} GPUs of {hardware.usable_memory / GIB:.1f} usable GiB: the least that a stage"
        f" takes is {smallest.total / GIB:.1f}. Take more GPUs, or ones with more memory"
    )


def _layouts(recipe: Recipe, gpus: int, hardware: Hardware, padded_vocab_size: int) -> Iterator[Recipe]:
    """Yield the recipe under every layout that its sizes divide; tensor parallelism stays within a node."""
    model = recipe.model
    for tensor in divisors(gpus):
        divides = not any(
            size % tensor for size in (model.num_attention_heads, model.ffn_hidden_size, padded_vocab_size)
        )
        if tensor > max(1, hardware.gpus_per_node) or not divides:
            continue
        if any(stage.seq_length % tensor for stage in recipe.curriculum):
            continue
        for pipeline in divisors(gpus // tensor):
            if model.num_layers % pipeline or recipe.global_batch_size % (gpus // tensor // pipeline):
                continue
            sizes = recipe.parallelism.model_copy(
                update={
                    "tensor_model_parallel_size": tensor,
                    "pipeline_model_parallel_size": pipeline,
                    "sequence_parallel": tensor > 1,
                }
            )
            changed = recipe.model_copy(update={"parallelism": sizes})
            try:  # not every layout goes with every choice of kernels and data
                yield Recipe.model_validate(changed.model_dump())
            except ValueError:
                continue


def _options(
    recipe: Recipe, index: int, gpus: int, padded_vocab_size: int
) -> Iterator[tuple[Recipe, StageLayout, MemoryPlan]]:
    """Yield every micro-batch and recomputation of a stage, and what each takes of a GPU's memory."""
    sizes = recipe.parallelism
    copies = gpus // (sizes.tensor_model_parallel_size * sizes.pipeline_model_parallel_size)
    share = recipe.global_batch_size // copies
    for granularity in granularities(recipe):
        changed = with_stage(recipe, index, recompute_granularity=granularity, recompute_num_layers=None)
        for micro in divisors(share):
            layout = StageLayout(copies, micro, share // micro)
            yield changed, layout, stage_memory(changed, index, layout, padded_vocab_size)


def granularities(recipe: Recipe) -> tuple[str | None, ...]:
    """Return the kinds of recomputation that save memory with the recipe's kernels, the cheapest first."""
    if resolve_kernels(recipe, "cuda").keeps_scores:
        return None, "selective", "full"
    return None, "full"


def _timed(
    option: tuple[Recipe, StageLayout, MemoryPlan], index: int, padded_vocab_size: int, source: SpeedSource
) -> StageChoice:
    recipe, layout, memory = option
    stage = recipe.curriculum[index]
    of_step = source.calibrated(recipe, index, layout, padded_vocab_size)
    return StageChoice(
        layout.micro_batch_size, stage.recompute_granularity, memory, of_step * stage.train_iters
    )


def with_stage(recipe: Recipe, index: int, **changes: object) -> Recipe:
    """Return the recipe with changes to one stage."""
    stages: list[Stage] = list(recipe.curriculum)
    stages[index] = stages[index].model_copy(update=changes)
    return recipe.model_copy(update={"curriculum": stages})
