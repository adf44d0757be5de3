"""Every stage of a recipe timed by the processes of one copy of its model, each result handed on at once.

What was timed goes to the plan as a measured.json (`planning/measured.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import date
from typing import Any, Literal

from retrieva_pretrain import platform
from retrieva_pretrain.errors import PreflightError, RecipeError
from retrieva_pretrain.model.kernels import kernel_notes, kernels_here
from retrieva_pretrain.optional_packages import refuse_missing_packages
from retrieva_pretrain.planning.measured import Measured, MeasuredStage, model_of
from retrieva_pretrain.planning.memory import stage_memory
from retrieva_pretrain.planning.peaks import dense_bf16_tflops
from retrieva_pretrain.preflight.machine import versions
from retrieva_pretrain.preflight.stage_speed import StageBench, planned_micro_batches, time_stage
from retrieva_pretrain.recipe.kernels import ResolvedKernels, recompute_granularity
from retrieva_pretrain.recipe.layout import StageLayout, model_parallel_size, padded_vocab_size
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.training.distributed import (
    initialize,
    largest_of_processes,
    leave_after_failure,
    shut_down,
)
from retrieva_pretrain.training.stopping import StopRequests

Found = dict[str, Any]
"""`device`, `peak_tflops`, `model_parallel_size`, `kernels`, `build_seconds`, and `stages`: of each what `StageSpeed` holds
with `stage`, `planned_micro_batch_size`, `too_large` and `mfu`, or an `error`."""


def refuse_here(recipe: Recipe) -> None:
    """Raise RecipeError where a training of the recipe would be refused for what this machine lacks."""
    refuse_missing_packages(recipe)
    kernels_here(recipe)


def time_all_stages(
    recipe: Recipe, vocab_size: int, gpus: int, write: Callable[[Found], None], *, seconds: float
) -> None:
    """Time the stages in their order at the micro-batches of a run on so many GPUs.

    Args:
        recipe: the recipe; this process is one of `model_parallel_size`.
        vocab_size: pieces of its tokenizer.
        gpus: of the planned run.
        write: called by the first process after every stage, with all that was found so far.
        seconds: after which no further stage is begun.
    """
    started = time.monotonic()
    stop_requests = StopRequests()
    ranks = initialize(recipe)
    try:
        machine = platform.current()
        free = int(-largest_of_processes(-machine.free_memory()))
        padded = padded_vocab_size(vocab_size, recipe.tokenizer.make_vocab_size_divisible_by)
        found: Found = {
            "device": machine.device_name() or machine.name,
            "peak_tflops": dense_bf16_tflops(machine.device_name()),
            "model_parallel_size": model_parallel_size(recipe),
            "kernels": [note.strip() for note in kernel_notes(recipe)],
            "stages": [],
        }

        def needed(index: int, size: int) -> int:
            return planned_memory(recipe, index, size, padded)

        if (least := min(needed(index, 1) for index in range(len(recipe.curriculum)))) > free:
            raise RecipeError(
                f"the model with one sample needs about {least / 2**30:.1f} GiB on one copy of it, and"
                f" {free / 2**30:.1f} GiB are free"
            )
        bench = StageBench(recipe, vocab_size, ranks, stop_requests)
        found["build_seconds"] = bench.build_seconds
        for index, size in enumerate(planned_micro_batches(recipe, gpus)):
            if largest_of_processes(time.monotonic() - started) > seconds:
                stage: Found = {"error": "not timed: no time was left"}
            else:
                stage = _timed(bench, index, size, lambda n, i=index: needed(i, n) <= free)  # type: ignore[misc]
            seq_length = recipe.curriculum[index].seq_length
            found["stages"].append(
                {"stage": index, "seq_length": seq_length, "planned_micro_batch_size": size, **stage}
            )
            if ranks.is_first:
                write(found)
        bench.close()
    except Exception:
        leave_after_failure()
        raise
    finally:
        shut_down()


def measured_file(recipe: Recipe, vocab_size: int, found: Found) -> Measured | None:
    """Return what was timed as the plan reads it; None where no stage was. Called where it was measured.

    The kernels are those that ran: a machine may lack what the recipe resolves to.
    """
    padded = padded_vocab_size(vocab_size, recipe.tokenizer.make_vocab_size_divisible_by)
    model = replace(model_of(recipe, padded, platform.current().name), kernels=asdict(kernels_here(recipe)))
    entries = tuple(
        MeasuredStage(
            seq_length=stage["seq_length"],
            micro_batch_size=stage["micro_batch_size"],
            recompute=_recompute(recipe, stage["stage"]),
            tensor_model_parallel_size=recipe.parallelism.tensor_model_parallel_size,
            pipeline_model_parallel_size=recipe.parallelism.pipeline_model_parallel_size,
            tokens_per_second=stage["tokens_per_second"],
            seconds_per_micro_batch=stage["micro_batch_seconds"],
            optimizer_seconds=stage["update_seconds"],
            peak_memory=stage["peak_memory"],
            mfu=stage["mfu"],
        )
        for stage in found["stages"]
        if "error" not in stage
    )
    if not entries:
        return None
    return Measured(date.today().isoformat(), found["device"], versions(), model, entries)


def _recompute(recipe: Recipe, index: int) -> Literal["none", "selective", "full"]:
    """Return what the stage computed again: `selective` means nothing where no scores are kept."""
    return recompute_granularity(recipe.curriculum[index], kernels_here(recipe)) or "none"


def planned_memory(recipe: Recipe, index: int, micro_batch_size: int, padded_vocab_size: int) -> int:
    """Return the bytes that `retrieva plan` expects on one GPU for a stage with the kernels of this machine; data
    parallel 1."""
    recipe = recipe.model_copy(
        update={"kernels": recipe.kernels.model_copy(update=_chosen(kernels_here(recipe)))}
    )
    return stage_memory(recipe, index, StageLayout(1, micro_batch_size, 1), padded_vocab_size).total


def _in_a_line(error: Exception) -> str:
    first = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first[:300]}"


def _chosen(kernels: ResolvedKernels) -> dict[str, Any]:
    """Return the kernels of this machine as a recipe names them: a plan resolves what is left open for CUDA."""
    chosen: dict[str, Any] = {
        name: getattr(kernels, name)
        for name in ("bias_activation_fusion", "bias_dropout_fusion", "gradient_accumulation_fusion")
    }
    if kernels.attention != "transformer_engine":
        chosen["attention_backend"] = kernels.attention
    return chosen


def _timed(bench: StageBench, index: int, size: int, fits: Callable[[int], bool]) -> Found:
    try:
        speed, too_large = time_stage(bench, index, size, fits)
    except (RuntimeError, AssertionError, RecipeError) as error:  # another stage may do
        if bench.is_divided and not isinstance(error, RecipeError):
            # The other processes of the copy wait in the middle of a step, and end with this one.
            raise PreflightError(
                f"stage {index}, micro-batches of {size}: one of the processes that share the model failed, and later stages"
                f" were not timed: {_in_a_line(error)}. If memory did not suffice, lower max_micro_batch_size"
            ) from error
        bench.recover()
        return {"error": _in_a_line(error)}
    peak = dense_bf16_tflops(platform.current().device_name())
    mfu = None if peak is None else speed.tflops / peak
    return {**asdict(speed), "too_large": too_large, "mfu": mfu}
