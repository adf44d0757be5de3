"""The 1.3 B model at every length of its recipe, at several micro-batches, with the kernels that it ships with.

Whole training steps: tokens per second, model TFLOP/s, MFU, peak memory beside what `retrieva plan` expects, and the
kernels that take the time.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from part import SIZES, Part

from retrieva_pretrain import platform
from retrieva_pretrain.model.kernels import kernel_notes
from retrieva_pretrain.planning.peaks import dense_bf16_tflops
from retrieva_pretrain.preflight.stage_speed import is_out_of_memory
from retrieva_pretrain.preflight.stages import planned_memory

PROFILED = (512, 16)


def run(part: Part) -> None:
    """Measure."""
    recipe = part.recipe()
    part.join(recipe)
    part.emit("kernels", notes=kernel_notes(recipe))
    bench = part.bench(recipe)
    index_of = {stage.seq_length: index for index, stage in enumerate(recipe.curriculum)}
    sizes = {16: (4, 8), 32: (2,)} if part.rehearse else SIZES
    for length, every in sizes.items():
        timed(part, bench, index_of[length], every[0])
    at, samples = (16, 4) if part.rehearse else PROFILED
    part.attempt("profile", lambda: profile(part, bench, index_of[at], samples), length=at, samples=samples)
    for turn in (1, 2):
        for length, every in sizes.items():
            if turn < len(every):
                timed(part, bench, index_of[length], every[turn])


def timed(part: Part, bench: Any, index: int, samples: int, **names: Any) -> dict[str, Any] | None:
    """Time one stage at one micro-batch, beside what the plan expects."""
    recipe = bench.recipe

    def work() -> dict[str, Any]:
        try:
            speed = bench.time(index, samples)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return {"out_of_memory": True}
        peak = dense_bf16_tflops(platform.current().device_name())
        return {
            **asdict(speed),
            "mfu": None if peak is None else speed.tflops / peak,
            "planned_memory": planned_memory(recipe, index, samples, bench.padded_vocab_size),
        }

    length = recipe.curriculum[index].seq_length
    found = part.attempt(
        "speed", work, length=length, samples=samples, layers=recipe.model.num_layers, **names
    )
    bench.recover()
    return found


def profile(part: Part, bench: Any, index: int, samples: int) -> dict[str, Any]:
    """Write the kernels of one step by time into profile.txt; return how long the device was at work."""
    stepper = bench.stepper(index, samples, 2)
    machine = platform.current()
    stepper.train_step(0)
    machine.synchronize()
    with torch.profiler.profile(activities=machine.profiler_activities()) as watched:
        stepper.train_step(1)
        machine.synchronize()
    stepper.prefetch.close()
    averages = watched.key_averages()
    column = "self_cpu_time_total" if part.rehearse else "self_device_time_total"
    table = averages.table(sort_by=column, row_limit=30, max_name_column_width=90)
    with (part.out / "profile.txt").open("a", encoding="utf-8") as stream:
        title = f"{part.name}: length {bench.recipe.curriculum[index].seq_length}, one step of 2 x {samples} samples"
        stream.write(f"\n===== {title}\n{table[:60_000]}\n")
    on_device = [e for e in averages if part.rehearse or e.device_type == torch.profiler.DeviceType.CUDA]
    top = sorted(on_device, key=lambda e: -getattr(e, column))[:15]
    return {
        "busy_milliseconds": sum(getattr(e, column) for e in on_device) / 1e3,
        "launches": sum(e.count for e in on_device),
        "top": [[e.key[:100], e.count, round(getattr(e, column) / 1e3, 2)] for e in top],
    }
