"""What a device was measured to do with a recipe's model: `measured.json`, which a preflight writes and `plan` reads.

One file holds one model with one choice of kernels on one kind of device, and an entry for every stage that was timed.
No torch: a plan reads it where no GPU is.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from data_prep.whole_files import write_whole
from retrieva_pretrain.errors import RecipeError
from retrieva_pretrain.planning.peaks import dense_bf16_tflops
from retrieva_pretrain.recipe.kernels import DeviceType, resolve_kernels
from retrieva_pretrain.recipe.schema import Recipe

Recompute = Literal["none", "selective", "full"]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class MeasuredModel:
    """What the speed depends on besides the stage: shape, precision and kernels."""

    num_layers: _Count
    hidden_size: _Count
    ffn_hidden_size: _Count
    num_attention_heads: _Count
    num_query_groups: _Count
    kv_channels: _Count
    padded_vocab_size: _Count
    hidden_dropout: float
    attention_dropout: float
    reset_attention_mask: bool
    """Whether attention stays inside documents."""

    precision: Literal["bf16", "fp32"]
    kernels: dict[str, str | bool | None]
    """`ResolvedKernels` by field, of the device that was measured."""


@dataclass(frozen=True)
class MeasuredStage:
    """One stage on the GPUs that hold one copy of the model; data parallel 1."""

    seq_length: _Count
    micro_batch_size: _Count
    """Samples of one forward pass."""

    recompute: Recompute
    """What was computed again for backward; `full` of all layers."""

    tensor_model_parallel_size: _Count
    pipeline_model_parallel_size: _Count
    tokens_per_second: _Positive
    """Of one GPU: positions of one micro-batch over the time of its forward and backward pass, divided by the GPUs of the
    copy. The optimizer is not in it."""

    seconds_per_micro_batch: _Positive
    """Forward and backward of one micro-batch, gradients summed up; of a pipeline, in the middle of a step."""

    optimizer_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """What a step takes besides its micro-batches: gradient norm, clipping, the whole optimizer, the host's part."""

    peak_memory: Annotated[int, Field(ge=0)]
    """Most bytes allocated on one GPU."""

    mfu: Annotated[float, Field(gt=0, le=1)] | None
    """Share of the dense BF16 peak in micro-batches; None where the device's peak is not known."""


@dataclass(frozen=True)
class Measured:
    """The content of a measured.json."""

    date: str
    """Of the measurement: YYYY-MM-DD."""

    device: str
    """As torch names it: NVIDIA H100 80GB HBM3."""

    versions: dict[str, str]
    """Of torch, megatron-core and whatever else counts."""

    model: MeasuredModel
    entries: tuple[MeasuredStage, ...]

    @property
    def origin(self) -> str:
        """When and on what: 2026-11-27, NVIDIA H100 80GB HBM3."""
        return f"{self.date}, {self.device}"


_READER = TypeAdapter(Measured)


def model_of(recipe: Recipe, padded_vocab_size: int, device_type: DeviceType) -> MeasuredModel:
    """Return what a measurement of `recipe` on devices of this type is about."""
    model, kernels = recipe.model, resolve_kernels(recipe, device_type)
    return MeasuredModel(
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        ffn_hidden_size=model.ffn_hidden_size,
        num_attention_heads=model.num_attention_heads,
        num_query_groups=model.num_query_groups,
        kv_channels=model.kv_channels,
        padded_vocab_size=padded_vocab_size,
        hidden_dropout=model.hidden_dropout,
        attention_dropout=model.attention_dropout,
        reset_attention_mask=recipe.data.reset_attention_mask,
        precision=recipe.precision,
        kernels=asdict(kernels),
    )


def write_measured(path: Path, measured: Measured) -> None:
    """Write a measured.json; another process sees the whole file or none."""
    write_whole(path, (json.dumps(asdict(measured), ensure_ascii=False, indent=2) + "\n").encode())


def read_measured(path: Path) -> Measured:
    """Read a measured.json. Fields that this version does not know are left alone.

    Raises:
        RecipeError: it cannot be read, is not JSON, or a field is missing or wrong; names the file and the field.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        measured = _READER.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            problem = f"{field}: is missing"
        elif not field:
            problem = f"is no measured.json: {first['msg']}"
        else:
            problem = f"{field}: {first['msg'][0].lower()}{first['msg'][1:]}"
        raise RecipeError(f"{path}: {problem}") from error
    if not measured.entries:
        raise RecipeError(
            f"{path}: entries: no stage was measured; measure again (retrieva preflight --recipe)"
        )
    for number, entry in enumerate(measured.entries):
        gpus = entry.tensor_model_parallel_size * entry.pipeline_model_parallel_size
        rate = entry.seq_length * entry.micro_batch_size / entry.seconds_per_micro_batch / gpus
        if not 0.9 < rate / entry.tokens_per_second < 1.1:
            raise RecipeError(
                f"{path}: entries.{number}: {entry.micro_batch_size} samples of {entry.seq_length} tokens in"
                f" seconds_per_micro_batch {entry.seconds_per_micro_batch:g} are {rate:,.0f} tokens/s per GPU, and"
                f" tokens_per_second says {entry.tokens_per_second:,.0f}; measure again (retrieva preflight --recipe)"
            )
    return measured


def refuse_other_model(
    measured: Measured, recipe: Recipe, padded_vocab_size: int | None = None, file: Path | None = None
) -> None:
    """Raise RecipeError where a recipe on CUDA differs from what was measured, naming every difference.

    The vocabulary is compared where its size is known. The message begins with the file, if one is given.
    """
    of_recipe = _flat(asdict(model_of(recipe, padded_vocab_size or measured.model.padded_vocab_size, "cuda")))
    of_file = _flat(asdict(measured.model))
    differ = [
        f"  {name}: {_shown(of_file.get(name, 'nothing'))} was measured, the recipe has {_shown(value)}"
        for name, value in of_recipe.items()
        if of_file.get(name, "nothing") != value
    ]
    if differ:
        raise RecipeError(
            ("" if file is None else f"{file}: ")
            + f"the measurement of {measured.date} on {measured.device} is of another model than {recipe.name}:\n"
            + "\n".join(differ)
        )


def refuse_other_device(measured: Measured, hardware: str, peak_tflops: float | None) -> None:
    """Raise RecipeError where another kind of GPU was measured than the hardware has, by their dense BF16 peaks."""
    of_device = dense_bf16_tflops(measured.device)
    if of_device is not None and peak_tflops is not None and not 0.98 < of_device / peak_tflops < 1.02:
        raise RecipeError(
            f"the measurement of {measured.date} is of {measured.device} with a dense BF16 peak of {of_device:,.0f} TFLOP/s,"
            f" and {hardware} has {peak_tflops:,.0f}: name a profile of those GPUs (--cluster), or leave out --measured"
        )


def _flat(model: dict[str, Any]) -> dict[str, Any]:
    kernels = model.pop("kernels")
    return {**model, **{f"kernels.{name}": value for name, value in kernels.items()}}


def _shown(value: object) -> str:
    """Return a value as a recipe writes it."""
    return {"True": "true", "False": "false", "None": "null"}.get(str(value), str(value))
