"""Which layout, micro-batches and recomputation to try first on a cluster: the fastest that fits, by formula.

The order rests on allowances, not on measurements: a layer that tensor parallelism divides is taken to lose 8 % each
time the size doubles, pipeline stages wait as `cost.bubble` says, small micro-batches lose as if each forward pass had
2,048 tokens more to do, and recomputed operations take their time. Change these beside what your cluster shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import log2

from retrieva_pretrain.errors import RecipeError
from retrieva_pretrain.planning.activations import AttentionBackend
from retrieva_pretrain.planning.cost import stage_seconds
from retrieva_pretrain.planning.flops import count_flops
from retrieva_pretrain.planning.hardware import DEFAULT_MFU, GIB, Hardware
from retrieva_pretrain.planning.memory import MemoryPlan, stage_memory
from retrieva_pretrain.recipe.layout import StageLayout, divisors, scored_slots
from retrieva_pretrain.recipe.schema import Recipe, Stage

_TENSOR_LOSS = 0.08
_TOKENS_OF_A_PASS = 2048
_GRANULARITIES = (None, "selective", "full")


@dataclass(frozen=True)
class StageChoice:
    """What fits one stage."""

    micro_batch_size: int
    recompute_granularity: str | None
    memory: MemoryPlan
    relative_seconds: float
    """For comparing choices; no prediction."""


@dataclass(frozen=True)
class Suggestion:
    """A layout of the run, and the fastest choice that fits for each stage."""

    tensor_model_parallel_size: int
    pipeline_model_parallel_size: int
    stages: tuple[StageChoice, ...]

    @property
    def relative_seconds(self) -> float:
        """For comparing suggestions."""
        return sum(stage.relative_seconds for stage in self.stages)

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
    recipe: Recipe, gpus: int, hardware: Hardware, padded_vocab_size: int, backend: AttentionBackend
) -> Suggestion:
    """Return the fastest of all layouts that fits so many GPUs.

    Raises:
        RecipeError: the GPUs' memory is not known, or nothing fits; says what is nearest.
    """
    if hardware.usable_memory is None:
        raise RecipeError(
            f"--suggest: the memory of {hardware.name}'s GPUs is not known; give the profile gpu_memory"
        )
    found: list[Suggestion] = []
    smallest: MemoryPlan | None = None
    layouts = 0
    for changed in _layouts(recipe, gpus, hardware, padded_vocab_size):
        layouts += 1
        choices = []
        for index in range(len(recipe.curriculum)):
            options = list(_choices(changed, index, gpus, padded_vocab_size, backend))
            least = min(options, key=lambda choice: choice.memory.total).memory
            if smallest is None or least.total < smallest.total:
                smallest = least
            fitting = [c for c in options if c.memory.total <= hardware.usable_memory]
            if not fitting:
                break
            choices.append(min(fitting, key=lambda choice: choice.relative_seconds))
        else:
            sizes = changed.parallelism
            found.append(
                Suggestion(
                    sizes.tensor_model_parallel_size, sizes.pipeline_model_parallel_size, tuple(choices)
                )
            )
    if found:
        return min(found, key=lambda suggestion: suggestion.relative_seconds)
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


def _choices(
    recipe: Recipe, index: int, gpus: int, padded_vocab_size: int, backend: AttentionBackend
) -> Iterator[StageChoice]:
    """Yield every micro-batch and recomputation of a stage."""
    sizes = recipe.parallelism
    tensor, pipeline = sizes.tensor_model_parallel_size, sizes.pipeline_model_parallel_size
    copies = gpus // (tensor * pipeline)
    share = recipe.global_batch_size // copies
    length = recipe.curriculum[index].seq_length
    flops = count_flops(
        recipe.model, padded_vocab_size, length, scored_slots(recipe.masking_probability(index), length)
    )
    for granularity in _GRANULARITIES:
        changed = with_stage(recipe, index, recompute_granularity=granularity, recompute_num_layers=None)
        for micro in divisors(share):
            layout = StageLayout(copies, micro, share // micro)
            seconds = stage_seconds(changed, index, flops, gpus, 1.0, DEFAULT_MFU, layout.num_microbatches)
            tokens = micro * length
            yield StageChoice(
                micro,
                granularity,
                stage_memory(changed, index, layout, padded_vocab_size, backend),
                seconds * (1 + _TENSOR_LOSS * log2(tensor)) * (1 + _TOKENS_OF_A_PASS / tokens),
            )


def with_stage(recipe: Recipe, index: int, **changes: object) -> Recipe:
    """Return the recipe with changes to one stage."""
    stages: list[Stage] = list(recipe.curriculum)
    stages[index] = stages[index].model_copy(update=changes)
    return recipe.model_copy(update={"curriculum": stages})
