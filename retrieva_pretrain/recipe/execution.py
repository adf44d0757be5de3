"""The sections of a recipe that say how it is carried out; a restart may change all of them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from retrieva_pretrain.recipe.fields import (
    MaskingRate,
    PlainText,
    PositiveFloat,
    PositiveInt,
    Section,
    refuse,
)


class KernelsConfig(Section):
    """Which implementation computes what. The defaults take the fastest that needs no extra package."""

    transformer_impl: Literal["local", "transformer_engine"] = Field(
        default="local",
        description="megatron-core's own layers, or Transformer Engine's where it is installed.",
    )
    attention_backend: Literal["auto", "sdpa", "unfused", "flash", "fused"] = Field(
        default="auto",
        description="Local layers: sdpa is torch's scaled_dot_product_attention (flash kernels on CUDA), unfused is"
        " megatron-core's; auto is sdpa on CUDA and unfused on the CPU. Transformer Engine: flash, fused or unfused;"
        " auto leaves the choice to it.",
    )
    bias_activation_fusion: bool | None = Field(
        default=None,
        description="One compiled kernel for SwiGLU and its bias. By default on CUDA only. Needs a C compiler.",
    )
    bias_dropout_fusion: bool | None = Field(
        default=None,
        description="One compiled kernel for bias, dropout and the residual sum. By default on CUDA only. Needs a C"
        " compiler.",
    )
    masked_softmax_fusion: bool = Field(
        default=False, description="Apex's kernel for the softmax of the unfused attention."
    )
    gradient_accumulation_fusion: bool | None = Field(
        default=None,
        description="Weight gradients are added to the fp32 sums inside the matrix product that computes them. By"
        " default on CUDA without compile_layers, where torch or Apex offers it.",
    )
    compile_layers: bool = Field(
        default=False, description="Whether torch.compile compiles each local layer as a whole."
    )
    fp8: Literal["hybrid", "e4m3"] | None = Field(
        default=None,
        description="Linear layers in FP8, in this format; Transformer Engine only, on GPUs that have FP8.",
    )

    @model_validator(mode="after")
    def _fits(self) -> KernelsConfig:
        problems = []
        if self.transformer_impl == "local":
            if self.attention_backend in ("flash", "fused"):
                problems.append(
                    f"attention_backend: {self.attention_backend} is Transformer Engine's; choose auto, sdpa or"
                    " unfused, or set kernels.transformer_impl to transformer_engine"
                )
            if self.fp8 is not None:
                problems.append(
                    f"fp8: {self.fp8} needs Transformer Engine's layers; set kernels.transformer_impl to"
                    " transformer_engine, or leave fp8 out"
                )
        elif self.attention_backend == "sdpa":
            problems.append(
                "attention_backend: sdpa goes with local layers; choose auto, flash, fused or unfused, or set"
                " kernels.transformer_impl to local"
            )
        if self.compile_layers and self.transformer_impl != "local":
            problems.append(
                "compile_layers: compiles local layers; set kernels.transformer_impl to local, or leave compile_layers out"
            )
        if self.compile_layers and self.gradient_accumulation_fusion:
            problems.append(
                "gradient_accumulation_fusion: torch.compile cannot compile layers around it; leave it out, or set"
                " kernels.compile_layers to false"
            )
        return refuse(self, problems)


class ParallelismConfig(Section):
    """How the model is divided over processes; one for the whole run, but a restart may change it."""

    tensor_model_parallel_size: PositiveInt = Field(default=1, description="Processes that share each layer.")
    pipeline_model_parallel_size: PositiveInt = Field(
        default=1, description="Processes that share the stack."
    )
    sequence_parallel: bool = Field(
        default=False,
        description="Whether norms and dropout divide the sequence over the processes that share each layer.",
    )
    overlap_grad_reduce: bool = Field(
        default=False, description="Whether gradients are reduced while others are still computed."
    )
    overlap_param_gather: bool = Field(
        default=False,
        description="Whether updated weights are gathered while the next step begins; needs the distributed"
        " optimizer and overlap_grad_reduce.",
    )
    use_distributed_optimizer: bool = Field(
        default=True, description="Whether optimizer states are divided over data-parallel processes."
    )

    @model_validator(mode="after")
    def _overlaps(self) -> ParallelismConfig:
        problems = []
        if self.overlap_param_gather and not (self.use_distributed_optimizer and self.overlap_grad_reduce):
            problems.append(
                "overlap_param_gather: needs use_distributed_optimizer and overlap_grad_reduce; set them, or leave it out"
            )
        return refuse(self, problems)


class CheckpointConfig(Section):
    """When checkpoints are written."""

    save_interval: PositiveInt = Field(default=1000, description="Steps between checkpoints.")
    keep: PositiveInt = Field(
        default=5, description="Newest checkpoints that are kept; the last one of each stage is kept as well."
    )
    async_save: bool = Field(
        default=True,
        description="Whether checkpoints are written beside the training; false holds it until they are whole.",
    )


Seconds = Annotated[float, Field(gt=0, le=7 * 86400, allow_inf_nan=False)]


class FaultsConfig(Section):
    """What is done about steps that would do harm, and about processes that hang."""

    max_grad_norm_factor: Annotated[float, Field(gt=1, allow_inf_nan=False)] | None = Field(
        default=None,
        description="A step is skipped where its gradient norm is more than so many times the median of the last"
        " grad_norm_window steps. Steps that are not finite are always skipped.",
    )
    grad_norm_window: Annotated[int, Field(ge=2, le=10_000)] = Field(
        default=128, description="Steps of that median; before there are so many, nothing is compared."
    )
    max_consecutive_skips: PositiveInt = Field(
        default=10, description="The run ends after so many skipped steps in a row."
    )
    step_timeout: Seconds = Field(
        default=600.0, description="Seconds without progress within a step after which a process ends itself."
    )
    pause_timeout: Seconds = Field(
        default=1800.0, description="The same for the start, evaluations and checkpoints."
    )


class EvaluationConfig(Section):
    """When held-out text is scored."""

    eval_interval: PositiveInt = Field(default=1000, description="Steps between evaluations.")
    samples_per_corpus: PositiveInt = Field(
        default=256, description="Held-out samples of each corpus, at most."
    )
    masking_probability: MaskingRate = Field(
        default=0.15,
        description="Masking rate of held-out text, whatever the training's: only then do runs compare.",
    )


class LoggingConfig(Section):
    """What the run says of itself."""

    log_interval: PositiveInt = Field(default=1, description="Steps between lines on the terminal.")
    tensorboard: bool = Field(default=True, description="Whether TensorBoard files are written.")
    wandb_project: PlainText | None = Field(
        default=None,
        description="Project at Weights & Biases that gets the curves; needs the wandb extra, and WANDB_API_KEY in"
        " the environment.",
    )
    wandb_entity: PlainText | None = Field(
        default=None, description="Weights & Biases: the team or user; the key's own where it is not given."
    )
    wandb_exp_name: PlainText | None = Field(
        default=None,
        description="Weights & Biases: the run's name there; the recipe's where it is not given.",
    )
    peak_tflops_per_gpu: PositiveFloat | None = Field(
        default=None,
        description="Dense BF16 peak of the device, against which MFU is told; by default from its name where that"
        " is known, and no MFU where it is not.",
    )

    @model_validator(mode="after")
    def _wandb(self) -> LoggingConfig:
        problems = []
        for name in ("wandb_entity", "wandb_exp_name"):
            if getattr(self, name) is not None and self.wandb_project is None:
                problems.append(f"{name}: goes with wandb_project, which is not given")
        return refuse(self, problems)
