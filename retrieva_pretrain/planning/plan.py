"""The plan of a run: stages, samples, tokens, learning rates and batches, before anything is started."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from retrieva_pretrain.curriculum.schedule import learning_rate
from retrieva_pretrain.curriculum.stages import Curriculum
from retrieva_pretrain.planning.activations import AttentionBackend, attention_backend
from retrieva_pretrain.planning.corpora import CorpusPlan, DataPlan, plan_data
from retrieva_pretrain.planning.cost import Times, stage_seconds, times
from retrieva_pretrain.planning.flops import count_flops
from retrieva_pretrain.planning.hardware import DEFAULT_MFU, H100, Hardware
from retrieva_pretrain.planning.memory import MemoryPlan, stage_memory
from retrieva_pretrain.planning.parameters import count_parameters
from retrieva_pretrain.recipe.layout import (
    StageLayout,
    model_parallel_size,
    possible_world_sizes,
    scored_slots,
    stage_layouts,
)
from retrieva_pretrain.recipe.schema import Recipe, Stage


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
    """None where the devices' peak is not known."""


@dataclass(frozen=True)
class RunCost:
    """What the run takes."""

    time: Times | None
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
    attention_backend: AttentionBackend
    """Memory is planned with it: `local` is held against what the CPU saves, `flash` is derived."""

    mfu: float
    """What times assume."""

    run: RunCost | None

    def as_json(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        return asdict(self)

    @property
    def nodes(self) -> int | None:
        """Nodes that the GPUs take; None where a node's GPUs are not known."""
        return -(-self.gpus // self.hardware.gpus_per_node) if self.hardware.gpus_per_node else None


def make_plan(
    recipe: Recipe,
    gpus: int | None = None,
    hardware: Hardware = H100,
    *,
    mfu: float = DEFAULT_MFU,
    backend: AttentionBackend | None = None,
    data: DataPlan | None = None,
) -> Plan:
    """Plan a recipe on so many GPUs, one process each; without a number on the fewest that hold the model.

    `mfu` is what times assume; `backend` the attention that the memory is planned with, the recipe's own by default;
    `data` what `plan_data` found, which need not be read anew for every number of GPUs.

    Raises:
        RecipeError: the recipe cannot be divided over them.
        CorpusError: what is here of the data does not fit the recipe.
    """
    gpus = model_parallel_size(recipe) if gpus is None else gpus
    backend = backend or attention_backend(recipe)
    curriculum = Curriculum(recipe)
    layouts = stage_layouts(recipe, gpus)
    data = data or plan_data(recipe)
    padded = data.padded_vocab_size
    costs = [
        None if padded is None else _stage_cost(recipe, index, layout, padded, gpus, hardware, mfu, backend)
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
        attention_backend=backend,
        mfu=mfu,
        run=_run_cost(recipe, gpus, hardware, parameters, costs),
    )


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
    hardware: Hardware,
    mfu: float,
    backend: AttentionBackend,
) -> StageCost:
    stage = recipe.curriculum[index]
    slots = scored_slots(recipe.masking_probability(index), stage.seq_length)
    flops = count_flops(recipe.model, padded_vocab_size, stage.seq_length, slots)
    taken = None
    if hardware.peak_tflops is not None:
        taken = times(
            stage_seconds(recipe, index, flops, gpus, hardware.peak_tflops, 1.0, layout.num_microbatches), mfu
        )
    return StageCost(
        flops_per_token=FlopsPerToken(
            *(3 * part / stage.seq_length for part in (flops.body, flops.attention, flops.head))
        ),
        memory=stage_memory(recipe, index, layout, padded_vocab_size, backend),
        time=taken,
    )


def _run_cost(
    recipe: Recipe, gpus: int, hardware: Hardware, parameters: int | None, stages: list[StageCost | None]
) -> RunCost | None:
    if parameters is None:
        return None
    taken = [stage.time for stage in stages if stage is not None and stage.time is not None]
    total = None
    node_hours = price = jobs = None
    if len(taken) == len(stages):
        total = Times(
            sum(t.expected for t in taken), sum(t.shortest for t in taken), sum(t.longest for t in taken)
        )
        if hardware.gpus_per_node:
            node_hours = total.expected / 3600 * -(-gpus // hardware.gpus_per_node)
            price = None if hardware.node_hour_price is None else node_hours * hardware.node_hour_price
        jobs = None if hardware.walltime is None else -(-int(total.expected) // hardware.walltime)
    checkpoint, checkpoints = checkpoint_bytes(recipe, parameters)
    return RunCost(
        time=total,
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
