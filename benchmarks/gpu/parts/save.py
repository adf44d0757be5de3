"""A checkpoint of the whole 1.3 B model and its optimizer: how long training stands still, and what the copy needs."""

from __future__ import annotations

import time
from typing import Any

import psutil
from part import Part

from retrieva_pretrain import platform
from retrieva_pretrain.training.checkpoint import Checkpointer
from retrieva_pretrain.training.run_folder import RunFolder


class Records:
    """Takes what a run would write to `metrics.jsonl`."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []

    def write(self, kind: str, **fields: Any) -> None:
        """Keep one record."""
        self.told.append({"kind": kind, **fields})


def run(part: Part) -> None:
    """Take a step, save beside another, and save again."""
    recipe = part.recipe()
    ranks, _ = part.join(recipe)
    bench = part.bench(recipe)
    stepper = bench.stepper(0, 4, 2)
    stepper.train_step(0)
    folder = RunFolder(part.work / "run")
    folder.path.mkdir(parents=True)
    records: Any = Records()
    saver = Checkpointer(folder, {}, recipe.checkpoint.model_copy(update={"keep": 1}), ranks, metrics=records)
    for step in (1, 2):
        if step == 2 and part.left < 25 and not part.rehearse:
            break
        part.attempt("save", lambda n=step: _save(saver, bench, stepper, records, folder, n), number=step)
    stepper.prefetch.close()


def _save(saver: Any, bench: Any, stepper: Any, records: Any, folder: RunFolder, step: int) -> dict[str, Any]:
    machine = platform.current()
    bench.recover()
    machine.synchronize()
    machine.forget_peak_memory()
    before = machine.memory()
    began = time.perf_counter()
    saver.save(step, bench.model, bench.optimizer, {})
    stall = time.perf_counter() - began
    gathered, host = machine.memory() - before, psutil.Process().memory_info().rss
    began_step = time.perf_counter()
    stepper.train_step(step)
    machine.synchronize()
    beside = time.perf_counter() - began_step
    saver.finish()
    files = [f for f in folder.checkpoints.rglob("*") if f.is_file()]
    return {
        "stall_seconds": stall,
        "whole_seconds": time.perf_counter() - began,
        "step_beside_seconds": beside,
        "more_on_device_bytes": gathered,
        "host_bytes": host,
        "checkpoint_bytes": sum(f.stat().st_size for f in files),
        "told": records.told[-1:],
    }
