"""The schema of a recipe.

Names are Megatron's own for Megatron's own things. Rules that join two fields stand beside the fields; what
depends on the number of processes is in `layout.py`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]


class Section(BaseModel):
    """A mapping of a recipe: unknown keys are refused and values are not converted between kinds."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ModelConfig(Section):
    """The encoder: pre-norm, SwiGLU, biases, learned absolute positions, a masked-LM head."""

    num_layers: PositiveInt = Field(description="Transformer layers.")
    hidden_size: PositiveInt = Field(description="Width of the model.")
    ffn_hidden_size: PositiveInt = Field(description="Width of each of the two halves of SwiGLU.")
    num_attention_heads: PositiveInt = Field(description="Attention heads.")
    num_query_groups: PositiveInt = Field(
        description="Key-value heads: 1 is multi-query attention, num_attention_heads is multi-head."
    )
    max_position_embeddings: PositiveInt = Field(
        description="Learned positions; allocated from the first stage, so as long as the longest one."
    )
    layernorm_epsilon: PositiveFloat = Field(default=1e-5, description="LayerNorm epsilon.")
    hidden_dropout: Probability = Field(default=0.1, description="Dropout on hidden states.")
    attention_dropout: Probability = Field(default=0.1, description="Dropout on attention probabilities.")
    init_method_std: PositiveFloat = Field(
        default=0.02, description="Standard deviation of the initial weights."
    )
    share_embeddings_and_output_weights: bool = Field(
        default=True, description="Whether the head uses the word embedding's matrix (tied embeddings)."
    )

    @model_validator(mode="after")
    def _divides(self) -> ModelConfig:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size: {self.hidden_size} is not divisible by num_attention_heads {self.num_attention_heads}"
            )
        if self.num_attention_heads % self.num_query_groups:
            raise ValueError(
                f"num_query_groups: {self.num_query_groups} does not divide num_attention_heads"
                f" {self.num_attention_heads}"
            )
        return self


class TokenizerConfig(Section):
    """The SentencePiece model that made the corpora."""

    model: str = Field(description="Path of the SentencePiece model.")
    make_vocab_size_divisible_by: PositiveInt = Field(
        default=128, description="The vocabulary is padded to a multiple of this, whatever the parallelism."
    )


class Corpus(Section):
    """One corpus of the blend."""

    path: str = Field(description="Prefix of the indexed dataset: PATH.bin, PATH.idx, PATH.manifest.json.")
    weight: PositiveFloat | None = Field(
        default=None, description="Share of the samples; without weights, shares follow the corpora's tokens."
    )


class DataConfig(Section):
    """What the model reads."""

    blend: Annotated[list[Corpus], Field(min_length=1)] = Field(description="The corpora.")
    held_out_fraction: Annotated[float, Field(ge=0, le=0.5, allow_inf_nan=False)] = Field(
        default=0.001, description="Share of each corpus's documents kept for evaluation, chosen by hash."
    )

    @field_validator("blend")
    @classmethod
    def _blend_is_consistent(cls, blend: list[Corpus]) -> list[Corpus]:
        given = [corpus.weight is not None for corpus in blend]
        if any(given) and not all(given):
            raise ValueError("give every corpus a weight, or none of them")
        paths = [corpus.path for corpus in blend]
        twice = sorted({path for path in paths if paths.count(path) > 1})
        if twice:
            raise ValueError(f"named twice: {', '.join(twice)}; give each corpus once, with one weight")
        return blend


class ObjectiveConfig(Section):
    """Masked language modelling: of the masked tokens 80 % become the mask, 10 % a random one, 10 % stay."""

    masking_probability: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] = Field(
        default=0.15, description="Share of a sample's tokens that the model must predict."
    )


class OptimizerConfig(Section):
    """Adam with decoupled weight decay (none on biases and norms), and the learning rate over the run."""

    lr: PositiveFloat = Field(description="Highest learning rate.")
    min_lr: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(default=0.0, description="Lowest one.")
    lr_decay_style: Literal["linear", "cosine", "constant", "inverse-square-root", "WSD"] = Field(
        default="linear", description="How the learning rate falls after the warm-up."
    )
    lr_warmup_fraction: Probability | None = Field(
        default=None, description="Share of the schedule's steps in which the learning rate rises from 0."
    )
    lr_warmup_iters: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="The same as a number of steps."
    )
    lr_wsd_decay_style: Literal["exponential", "linear", "cosine", "minus_sqrt"] = Field(
        default="exponential", description="WSD: how the learning rate falls at the end."
    )
    lr_wsd_decay_iters: PositiveInt | None = Field(
        default=None, description="WSD: steps of the fall at the end."
    )
    adam_beta1: Probability = Field(default=0.9, description="Decay of the first moment.")
    adam_beta2: Probability = Field(default=0.999, description="Decay of the second moment.")
    adam_eps: PositiveFloat = Field(default=1e-8, description="Adam's epsilon.")
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=0.01, description="Decoupled weight decay."
    )
    clip_grad: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=1.0, description="The gradient's norm is clipped to this; 0 never clips."
    )

    @model_validator(mode="after")
    def _schedule(self) -> OptimizerConfig:
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr: {self.min_lr} is above lr {self.lr}")
        if self.lr_warmup_fraction is not None and self.lr_warmup_iters is not None:
            raise ValueError("lr_warmup_iters: give lr_warmup_fraction or lr_warmup_iters, not both")
        if (self.lr_decay_style == "WSD") != (self.lr_wsd_decay_iters is not None):
            raise ValueError("lr_wsd_decay_iters: goes with lr_decay_style WSD, and WSD needs it")
        return self


class Stage(Section):
    """One stage of the curriculum."""

    seq_length: Annotated[int, Field(ge=8)] = Field(description="Length of the samples in tokens.")
    train_iters: PositiveInt = Field(description="Optimizer steps.")
    max_micro_batch_size: PositiveInt = Field(
        description="Ceiling of the samples in one forward pass of one process; the run takes the largest"
        " divisor of global_batch_size / data-parallel size not above it."
    )
    name: str | None = Field(default=None, description="A name for logs and pictures.")


class ParallelismConfig(Section):
    """How the model is divided over processes; one for the whole run, but a restart may change it."""

    tensor_model_parallel_size: PositiveInt = Field(default=1, description="Processes that share each layer.")
    pipeline_model_parallel_size: PositiveInt = Field(
        default=1, description="Processes that share the stack."
    )
    use_distributed_optimizer: bool = Field(
        default=True, description="Whether optimizer states are divided over data-parallel processes."
    )


class CheckpointConfig(Section):
    """When checkpoints are written."""

    save_interval: PositiveInt = Field(default=1000, description="Steps between checkpoints.")
    keep: PositiveInt = Field(default=5, description="Newest checkpoints that are kept.")


class EvaluationConfig(Section):
    """When held-out text is scored."""

    eval_interval: PositiveInt = Field(default=1000, description="Steps between evaluations.")
    samples_per_corpus: PositiveInt = Field(
        default=256, description="Held-out samples of each corpus, at most."
    )


class LoggingConfig(Section):
    """What the run says of itself."""

    log_interval: PositiveInt = Field(default=1, description="Steps between lines on the terminal.")
    tensorboard: bool = Field(default=True, description="Whether TensorBoard files are written.")


class Recipe(Section):
    """A whole run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")] = Field(
        description="The run's folder is runs_dir/name."
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        default=1234, description="Seed of every random choice."
    )
    runs_dir: str = Field(default="runs", description="Where runs are kept.")
    model: ModelConfig
    tokenizer: TokenizerConfig
    data: DataConfig
    objective: ObjectiveConfig = ObjectiveConfig()
    optimizer: OptimizerConfig
    schedule_scope: Literal["run", "stage"] = Field(
        default="run", description="Whether the learning rate runs once over all stages or anew in each."
    )
    precision: Literal["bf16", "fp32"] = Field(default="bf16", description="Type of weights and activations.")
    global_batch_size: PositiveInt = Field(description="Samples of one optimizer step, over all processes.")
    curriculum: Annotated[list[Stage], Field(min_length=1)] = Field(description="The stages in order.")
    parallelism: ParallelismConfig = ParallelismConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    logging: LoggingConfig = LoggingConfig()
    deterministic: bool = Field(
        default=False, description="Whether GPUs must give bit-identical results (slower)."
    )

    @field_validator("curriculum")
    @classmethod
    def _stages_in_order(cls, curriculum: list[Stage]) -> list[Stage]:
        for number, (one, next_one) in enumerate(pairwise(curriculum), 1):
            if next_one.seq_length < one.seq_length:
                raise ValueError(
                    f"{number}.seq_length: {next_one.seq_length} comes after {one.seq_length}; put the stages in"
                    " order of length"
                )
        names = [stage.name for stage in curriculum if stage.name is not None]
        if len(set(names)) < len(names):
            raise ValueError(f"stage names must differ: {', '.join(names)}")
        return curriculum

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        longest = max(stage.seq_length for stage in self.curriculum)
        if longest > self.model.max_position_embeddings:
            index = [stage.seq_length for stage in self.curriculum].index(longest)
            raise ValueError(
                f"curriculum.{index}.seq_length: {longest} is more than model.max_position_embeddings"
                f" {self.model.max_position_embeddings}; allocate the longest stage's positions from the start"
            )
        self._check_parallelism()
        self._check_schedule()
        return self

    def _check_parallelism(self) -> None:
        tensor, pipeline = (
            self.parallelism.tensor_model_parallel_size,
            self.parallelism.pipeline_model_parallel_size,
        )
        field = "parallelism.tensor_model_parallel_size"
        for name, value in (
            ("model.num_attention_heads", self.model.num_attention_heads),
            ("model.ffn_hidden_size", self.model.ffn_hidden_size),
            ("tokenizer.make_vocab_size_divisible_by", self.tokenizer.make_vocab_size_divisible_by),
        ):
            if value % tensor:
                raise ValueError(f"{field}: {name} {value} is not divisible by {tensor}")
        groups = self.model.num_query_groups
        if groups % tensor and tensor % groups:
            raise ValueError(
                f"{field}: {tensor} neither divides model.num_query_groups {groups} nor is a multiple"
            )
        if self.model.num_layers % pipeline:
            raise ValueError(
                f"parallelism.pipeline_model_parallel_size: model.num_layers {self.model.num_layers} is not"
                f" divisible by {pipeline}"
            )

    def _check_schedule(self) -> None:
        spans = [stage.train_iters for stage in self.curriculum]
        span = sum(spans) if self.schedule_scope == "run" else min(spans)
        of = "the run" if self.schedule_scope == "run" else "the shortest stage"
        fixed = self.optimizer.lr_warmup_iters or 0
        warmup = fixed or int((self.optimizer.lr_warmup_fraction or 0.0) * span)
        if warmup >= span:
            raise ValueError(
                f"optimizer.lr_warmup_iters: a warm-up of {warmup} steps is not shorter than {of}, {span}"
            )
        decay = self.optimizer.lr_wsd_decay_iters or 0
        if warmup + decay > span:
            raise ValueError(
                f"optimizer.lr_wsd_decay_iters: warm-up {warmup} and decay {decay} are longer than {of}, {span}"
            )
