"""The plan of a run: stages, samples, tokens, learning rates and batches, before anything is started."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from retrieva_pretrain.curriculum.schedule import learning_rate
from retrieva_pretrain.curriculum.stages import Curriculum
from retrieva_pretrain.planning.corpora import CorpusPlan, DataPlan, plan_data
from retrieva_pretrain.planning.cost import Times
from retrieva_pretrain.planning.flops import count_flops
from retrieva_pretrain.planning.hardware import GIB, H100, Hardware
from retrieva_pretrain.planning.measured import Measured, refuse_other_device, refuse_other_model
from retrieva_pretrain.planning.memory import MemoryPlan, stage_memory
from retrieva_pretrain.planning.parameters import count_parameters
from retrieva_pretrain.planning.speed import Speed, SpeedSource, nearest_entry
from retrieva_pretrain.recipe.kernels import (
    ResolvedKernels,
    ignored_choices,
    resolve_kernels,
    without_ignored_choices,
)
from retrieva_pretrain.recipe.layout import (
    StageLayout,
    model_parallel_size,
    possible_world_sizes,
    scored_slots,
    stage_layouts,
)
from retrieva_pretrain.recipe.schema import Recipe, Stage

_MEMORY_TOLERANCE = 1.05


@dataclass(frozen=True)
class FlopsPerToken:
    """Operations of training on one position, forward and backward, by part of the model; without recomputation."""

    body: float
    attention: float
    head: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.body + self.attention + self.head


@dataclass(frozen=True)
class StageCost:
    """What a stage takes."""

    flops_per_token: FlopsPerToken
    memory: MemoryPlan
    time: Times | None
    """None, like the next, where the devices' peak is not known."""

    speed: Speed | None


@dataclass(frozen=True)
class RunCost:
    """What the run takes."""

    time: Times | None
    gpu_hours: float | None
    node_hours: float | None
    price: float | None
    """In the cluster's own unit."""

    jobs: int | None
    """Jobs of the cluster's walltime, one after the other."""

    checkpoint: int
    """Bytes of one checkpoint."""

    checkpoints: int
    """Bytes of all that are kept at a time at most."""


@dataclass(frozen=True)
class StagePlan:
    """One stage."""

    stage: int
    """Number of the stage, from 0."""

    name: str | None
    seq_length: int
    steps: int
    samples: int
    tokens: int
    """Positions: samples x sequence length."""

    first_lr: float
    last_lr: float
    micro_batch_size: int
    num_microbatches: int
    recompute: str
    """What is computed again for backward: none, selective, full."""

    cost: StageCost | None
    """None where the size of the vocabulary is not known here."""


@dataclass(frozen=True)
class Plan:
    """The whole run."""

    name: str
    gpus: int
    possible_gpus: tuple[int, ...]
    data_parallel_size: int
    tensor_model_parallel_size: int
    pipeline_model_parallel_size: int
    global_batch_size: int
    precision: str
    steps: int
    samples: int
    tokens: int
    """Positions: samples x sequence length."""

    tokenizer: str
    """Path of the SentencePiece model."""

    vocab_size: int | None
    """None, like the next two, where neither the tokenizer nor a corpus is here to tell it."""

    padded_vocab_size: int | None
    parameters: int | None
    parameters_without_vocabulary: int
    """All but the rows of the word embedding and what the head has for each of them."""

    special_tokens_per_window: int
    """2, or 0 where the corpora carry <CLS> and <SEP> round every document."""

    stages: tuple[StagePlan, ...]
    corpora: tuple[CorpusPlan, ...]
    hardware: Hardware
    kernels: ResolvedKernels
    """Of the recipe on CUDA: memory and times are planned with them."""

    mfu: float | None
    """What times assume; None where they are measured or modelled."""

    measured: str | None
    """Date and device of the measurement that the plan was given."""

    measured_memory: tuple[str, ...]
    """Where a measurement took more memory than is planned."""

    assumptions: tuple[str, ...]
    """What the model of the time takes for granted of the hardware and of kernels that it does not know."""

    ignored: tuple[str, ...]
    """Choices of the recipe that have no use with its kernels."""

    run: RunCost | None

    def as_json(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        return asdict(self)

    @property
    def nodes(self) -> int | None:
        """Nodes that the GPUs take; None where a node's GPUs are not known."""
        return -(-self.gpus // self.hardware.gpus_per_node) if self.hardware.gpus_per_node else None

    @property
    def speeds(self) -> list[Speed]:
        """The speeds of the stages that have one, in their order."""
        return [s.cost.speed for s in self.stages if s.cost is not None and s.cost.speed is not None]

    @property
    def memory(self) -> MemoryPlan | None:
        """The memory of the stage that takes the most; None where the size of the vocabulary is not known."""
        plans = [stage.cost.memory for stage in self.stages if stage.cost is not None]
        return max(plans, key=lambda plan: plan.total, default=None)


def make_plan(
    recipe: Recipe,
    gpus: int | None = None,
    hardware: Hardware = H100,
    *,
    mfu: float | None = None,
    measured: Measured | None = None,
    data: DataPlan | None = None,
) -> Plan:
    """Plan a recipe on so many GPUs, one process each; without a number on the fewest that hold the model.

    Times are modelled; `measured` takes the model's place for the stages that it holds, and `mfu` that of both. `data` is
    what `plan_data` found, which need not be read anew for every number of GPUs.

    Raises:
        RecipeError: the recipe cannot be divided over them; another model or another device was measured, or it cannot
            have been that fast.
        CorpusError: what is here of the data does not fit the recipe.
    """
    gpus = model_parallel_size(recipe) if gpus is None else gpus
    ignored = ignored_choices(recipe, "cuda")
    recipe = planned_recipe(recipe)
    curriculum = Curriculum(recipe)
    layouts = stage_layouts(recipe, gpus)
    data = data or plan_data(recipe)
    padded = data.padded_vocab_size
    if measured is not None:
        refuse_other_model(measured, recipe, padded)
        refuse_other_device(measured, hardware.name, hardware.peak_tflops)
    source = SpeedSource(hardware, mfu, measured)
    costs = [
        None if padded is None else _stage_cost(recipe, index, layout, padded, gpus, source)
        for index, layout in enumerate(layouts)
    ]
    parameters = None if padded is None else count_parameters(recipe.model, padded).total
    return Plan(
        name=recipe.name,
        gpus=gpus,
        possible_gpus=tuple(possible_world_sizes(recipe)),
        data_parallel_size=layouts[0].data_parallel_size,
        tensor_model_parallel_size=recipe.parallelism.tensor_model_parallel_size,
        pipeline_model_parallel_size=recipe.parallelism.pipeline_model_parallel_size,
        global_batch_size=recipe.global_batch_size,
        precision=recipe.precision,
        steps=curriculum.total_steps,
        samples=curriculum.total_samples,
        tokens=curriculum.total_tokens,
        tokenizer=recipe.tokenizer.model,
        vocab_size=data.vocab_size,
        padded_vocab_size=padded,
        parameters=parameters,
        parameters_without_vocabulary=count_parameters(recipe.model, 0).total,
        special_tokens_per_window=data.special_tokens_per_window,
        stages=tuple(
            _stage_plan(curriculum, index, layout, cost)
            for index, (layout, cost) in enumerate(zip(layouts, costs, strict=True))
        ),
        corpora=data.corpora,
        hardware=hardware,
        kernels=resolve_kernels(recipe, "cuda"),
        mfu=mfu,
        measured=None if measured is None else measured.origin,
        measured_memory=_measured_memory(recipe, layouts, padded, measured),
        assumptions=() if mfu is not None else (*hardware.assumptions(gpus), *_assumed_kernels(recipe)),
        ignored=tuple(ignored),
        run=_run_cost(recipe, gpus, hardware, parameters, costs),
    )


def planned_recipe(recipe: Recipe) -> Recipe:
    """Return the recipe as GPUs will run it: without what has no use there."""
    return without_ignored_choices(recipe, "cuda")


def _assumed_kernels(recipe: Recipe) -> list[str]:
    """Return what the model of the time takes for granted of kernels whose speed nobody told."""
    kernels = resolve_kernels(recipe, "cuda")
    made = []
    if kernels.attention == "transformer_engine":
        made.append("Transformer Engine's kernels as fast as torch's")
    if kernels.fp8 is not None:
        made.append("FP8 products 1.6 times as fast as BF16, on GPUs that have FP8")
    return made


def _measured_memory(
    recipe: Recipe, layouts: tuple[StageLayout, ...], padded: int | None, measured: Measured | None
) -> tuple[str, ...]:
    """Return a line for each stage of which one copy of the model took more memory than the plan has for it."""
    if measured is None or padded is None:
        return ()
    lines = []
    for index, layout in enumerate(layouts):
        if (entry := nearest_entry(measured, recipe, index, layout)) is None:
            continue
        as_measured = StageLayout(1, entry.micro_batch_size, layout.num_microbatches)
        planned = stage_memory(recipe, index, as_measured, padded).step
        if entry.peak_memory > _MEMORY_TOLERANCE * planned:
            lines.append(
                f"one copy of the model took {entry.peak_memory / GIB:.1f} GiB per GPU at length {entry.seq_length:,} with"
                f" {entry.micro_batch_size} samples, measured; the plan has {planned / GIB:.1f}: expect as much more"
            )
    return tuple(lines)


def _stage_plan(curriculum: Curriculum, index: int, layout: StageLayout, cost: StageCost | None) -> StagePlan:
    stage = curriculum.recipe.curriculum[index]
    start, end = curriculum.stage_steps(index)
    return StagePlan(
        stage=index,
        name=stage.name,
        seq_length=stage.seq_length,
        steps=stage.train_iters,
        samples=curriculum.consumed_samples(end) - curriculum.consumed_samples(start),
        tokens=curriculum.consumed_tokens(end) - curriculum.consumed_tokens(start),
        first_lr=learning_rate(curriculum.recipe, start),
        last_lr=learning_rate(curriculum.recipe, end - 1),
        micro_batch_size=layout.micro_batch_size,
        num_microbatches=layout.num_microbatches,
        recompute=_recompute(stage),
        cost=cost,
    )


def _recompute(stage: Stage) -> str:
    if stage.recompute_granularity is None:
        return "none"
    layers = stage.recompute_num_layers
    return stage.recompute_granularity + (f" ({layers} layers)" if layers else "")


def _stage_cost(
    recipe: Recipe,
    index: int,
    layout: StageLayout,
    padded_vocab_size: int,
    gpus: int,
    source: SpeedSource,
) -> StageCost:
    stage = recipe.curriculum[index]
    slots = scored_slots(recipe.masking_probability(index), stage.seq_length)
    flops = count_flops(recipe.model, padded_vocab_size, stage.seq_length, slots)
    speed, taken = source.of_stage(recipe, index, layout, padded_vocab_size, gpus, flops), None
    if speed is not None:
        of_step = (speed.step_seconds, speed.shortest, speed.longest)
        taken = Times(*(seconds * stage.train_iters for seconds in of_step))
    return StageCost(
        flops_per_token=FlopsPerToken(
            *(3 * part / stage.seq_length for part in (flops.body, flops.attention, flops.head))
        ),
        memory=stage_memory(recipe, index, layout, padded_vocab_size),
        time=taken,
        speed=speed,
    )


def _run_cost(
    recipe: Recipe, gpus: int, hardware: Hardware, parameters: int | None, stages: list[StageCost | None]
) -> RunCost | None:
    if parameters is None:
        return None
    taken = [stage.time for stage in stages if stage is not None and stage.time is not None]
    total = None
    gpu_hours = node_hours = price = jobs = None
    if len(taken) == len(stages):
        total = Times(
            sum(t.expected for t in taken), sum(t.shortest for t in taken), sum(t.longest for t in taken)
        )
        gpu_hours = total.expected / 3600 * gpus
        if hardware.gpus_per_node:
            node_hours = total.expected / 3600 * -(-gpus // hardware.gpus_per_node)
            price = None if hardware.node_hour_price is None else node_hours * hardware.node_hour_price
        jobs = None if hardware.walltime is None else -(-int(total.expected) // hardware.walltime)
    checkpoint, checkpoints = checkpoint_bytes(recipe, parameters)
    return RunCost(
        time=total,
        gpu_hours=gpu_hours,
        node_hours=node_hours,
        price=price,
        jobs=jobs,
        checkpoint=checkpoint,
        checkpoints=checkpoints,
    )


def checkpoint_bytes(recipe: Recipe, parameters: int) -> tuple[int, int]:
    """Return the bytes of one checkpoint, and of all that are on the disk at a time at most.

    A parameter takes its weight, and Adam's master copy and two moments in fp32; in fp32 the weight is its own master.
    """
    one = parameters * (14 if recipe.precision == "bf16" else 12)
    # The newest, the last of each stage, and the one that is being written.
    kept = min(recipe.checkpoint.keep + len(recipe.curriculum), _saves(recipe)) + 1
    return one, kept * one


def _saves(recipe: Recipe) -> int:
    return recipe.total_steps // recipe.checkpoint.save_interval + len(recipe.curriculum)
