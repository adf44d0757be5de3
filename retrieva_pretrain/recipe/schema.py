"""The schema of a recipe: its sections together, and the rules between them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from retrieva_pretrain.recipe.execution import (
    CheckpointConfig,
    EvaluationConfig,
    FaultsConfig,
    KernelsConfig,
    LoggingConfig,
    ParallelismConfig,
)
from retrieva_pretrain.recipe.fields import PlainText, PositiveInt, Section, refuse
from retrieva_pretrain.recipe.sections import (
    Corpus,
    DataConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    Stage,
    TokenizerConfig,
)

__all__ = [
    "CheckpointConfig",
    "Corpus",
    "DataConfig",
    "EvaluationConfig",
    "FaultsConfig",
    "KernelsConfig",
    "LoggingConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "ParallelismConfig",
    "Precision",
    "Recipe",
    "Stage",
    "TokenizerConfig",
]

Precision = Literal["bf16", "fp32"]


class Recipe(Section):
    """A whole run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$", max_length=100)] = Field(
        description="The run's folder is runs_dir/name: letters, digits, `_`, and after the first also `.` and `-`."
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        default=1234, description="Seed of every random choice."
    )
    runs_dir: PlainText = Field(
        default="runs", description="Where runs are kept, from the working directory."
    )
    init_from: PlainText | None = Field(
        default=None,
        description="A checkpoint's folder, or a run's for its newest one, whose weights a new run begins with;"
        " from the working directory.",
    )
    model: ModelConfig = Field(description="The encoder's shape.")
    tokenizer: TokenizerConfig = Field(description="What made the corpora.")
    data: DataConfig = Field(description="What the model reads.")
    objective: ObjectiveConfig = Field(default=ObjectiveConfig(), description="What the model learns.")
    optimizer: OptimizerConfig = Field(description="Adam and its learning rate.")
    schedule_scope: Literal["run", "stage"] = Field(
        default="run", description="Whether the learning rate runs once over all stages or anew in each."
    )
    precision: Precision = Field(default="bf16", description="Type of weights and activations.")
    global_batch_size: PositiveInt = Field(description="Samples of one optimizer step, over all processes.")
    curriculum: Annotated[list[Stage], Field(min_length=1)] = Field(description="The stages in order.")
    parallelism: ParallelismConfig = Field(
        default=ParallelismConfig(), description="How the model is divided over processes."
    )
    kernels: KernelsConfig = Field(default=KernelsConfig(), description="Which implementation computes what.")
    checkpoint: CheckpointConfig = Field(
        default=CheckpointConfig(), description="When checkpoints are written."
    )
    evaluation: EvaluationConfig = Field(
        default=EvaluationConfig(), description="When held-out text is scored."
    )
    faults: FaultsConfig = Field(default=FaultsConfig(), description="Harmful steps and hanging processes.")
    logging: LoggingConfig = Field(default=LoggingConfig(), description="What the run says of itself.")
    deterministic: bool = Field(
        default=False, description="Whether GPUs must give bit-identical results (slower)."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        return refuse(
            self,
            [
                *_curriculum_problems(self),
                *_parallelism_problems(self),
                *_schedule_problems(self),
                *_budget_problems(self),
                *_precision_problems(self),
            ],
        )

    @property
    def run_folder(self) -> Path:
        """Where the run is kept."""
        return Path(self.runs_dir) / self.name

    @property
    def total_steps(self) -> int:
        """Steps of all stages."""
        return sum(stage.train_iters for stage in self.curriculum)

    def masking_probability(self, stage: int) -> float:
        """Return the share of tokens that stage number `stage` (from 0) has to predict."""
        own = self.curriculum[stage].masking_probability
        return self.objective.masking_probability if own is None else own


def _curriculum_problems(recipe: Recipe) -> Iterator[str]:
    """Stages grow, have names of their own, and fit the learned positions."""
    names: set[str] = set()
    longest_before, positions = 0, recipe.model.max_position_embeddings
    for number, stage in enumerate(recipe.curriculum):
        field = f"curriculum.{number}"
        if stage.seq_length < longest_before:
            yield (
                f"{field}.seq_length: {stage.seq_length} comes after {longest_before}; put the stages in order of"
                " length"
            )
        if stage.seq_length > positions:
            yield (
                f"{field}.seq_length: {stage.seq_length} is more than model.max_position_embeddings {positions};"
                " positions are allocated for the longest stage from the start"
            )
        if stage.name is not None and stage.name in names:
            yield f"{field}.name: another stage is called {stage.name} too; stage names must differ"
        names |= {stage.name} if stage.name is not None else set()
        longest_before = max(longest_before, stage.seq_length)
    if recipe.total_steps * recipe.global_batch_size * longest_before >= 2**62:
        yield "curriculum: more tokens than can be counted; look for a zero too many in it or in global_batch_size"


def _parallelism_problems(recipe: Recipe) -> Iterator[str]:
    """What megatron-core 0.16.1 and later demand of the sizes (transformer_config, attention, layers)."""
    model, tensor = recipe.model, recipe.parallelism.tensor_model_parallel_size
    groups = model.num_query_groups
    query_key_value = (model.num_attention_heads + 2 * groups) * model.kv_channels
    for name, value in (
        ("model.num_attention_heads", model.num_attention_heads),
        ("model.ffn_hidden_size", model.ffn_hidden_size),
        ("the width of query, key and value,", query_key_value),
        ("tokenizer.make_vocab_size_divisible_by", recipe.tokenizer.make_vocab_size_divisible_by),
    ):
        if value % tensor:
            yield (
                f"parallelism.tensor_model_parallel_size: {tensor} does not divide {name} {value}; change one of"
                " them"
            )
    if groups % tensor and tensor % groups:
        yield (
            f"parallelism.tensor_model_parallel_size: {tensor} neither divides model.num_query_groups {groups} nor"
            " is a multiple of it; change one of them"
        )
    if recipe.parallelism.sequence_parallel:
        if tensor == 1:
            yield (
                "parallelism.sequence_parallel: divides what tensor parallelism leaves whole; set"
                " tensor_model_parallel_size to 2 or more, or leave it out"
            )
        for number, stage in enumerate(recipe.curriculum):
            if stage.seq_length % tensor:
                yield (
                    f"curriculum.{number}.seq_length: {stage.seq_length} is not divisible by"
                    f" tensor_model_parallel_size {tensor}, which sequence_parallel asks for"
                )
    pipeline = recipe.parallelism.pipeline_model_parallel_size
    if (
        recipe.data.reset_attention_mask
        and recipe.kernels.transformer_impl == "transformer_engine"
        and (pipeline > 1 or recipe.parallelism.sequence_parallel)
    ):
        yield (
            "kernels.transformer_impl: transformer_engine packs documents only without pipeline and sequence"
            " parallelism; use local, or divide the model otherwise"
        )
    if model.num_layers % pipeline:
        yield (
            f"parallelism.pipeline_model_parallel_size: {pipeline} does not divide model.num_layers"
            f" {model.num_layers}; change one of them"
        )


def _precision_problems(recipe: Recipe) -> Iterator[str]:
    """FP8 is a form of mixed precision over bf16 weights."""
    if recipe.kernels.fp8 is not None and recipe.precision != "bf16":
        yield f"kernels.fp8: {recipe.kernels.fp8} goes with precision bf16, not {recipe.precision}"


def _schedule_problems(recipe: Recipe) -> Iterator[str]:
    """The warm-up, and WSD's fall, fit into every schedule: one for the run, or one for each stage."""
    if recipe.schedule_scope == "run":
        schedules = [("the run", recipe.total_steps)]
    else:
        schedules = [(f"stage {n}", stage.train_iters) for n, stage in enumerate(recipe.curriculum)]
    settings = recipe.optimizer
    name, steps = min(schedules, key=lambda schedule: schedule[1])
    warmup, fall = settings.warmup_steps(steps), settings.lr_wsd_decay_iters or 0
    if warmup >= steps:
        field = "lr_warmup_fraction" if settings.lr_warmup_iters is None else "lr_warmup_iters"
        yield f"optimizer.{field}: {warmup} steps of warm-up are not fewer than the {steps} of {name}"
    elif warmup + fall > steps:
        yield (
            f"optimizer.lr_wsd_decay_iters: {fall} steps of fall and {warmup} of warm-up are more than the {steps}"
            f" of {name}"
        )


# Whether a sample's own <CLS> and <SEP> are counted is decided by the corpora; budgets are round numbers.
_BUDGET_TOLERANCE = 0.05


def _budget_problems(recipe: Recipe) -> Iterator[str]:
    """Token budgets add up to what the curriculum reads, within 5 %."""
    budgets = [corpus.tokens for corpus in recipe.data.blend if corpus.tokens is not None]
    if not budgets:
        return
    samples = [
        (recipe.global_batch_size * stage.train_iters, stage.seq_length) for stage in recipe.curriculum
    ]
    least = sum(count * (length - 2) for count, length in samples)
    most = sum(count * length for count, length in samples)
    total = sum(budgets)
    if not least * (1 - _BUDGET_TOLERANCE) <= total <= most * (1 + _BUDGET_TOLERANCE):
        yield (
            f"data.blend.0.tokens: the budgets add up to {total:,} tokens, the curriculum reads {most:,}; change the"
            " budgets, or train_iters and global_batch_size, or give weights instead"
        )
