"""How often a training step waits for the device, as torch itself counts on CUDA; and where."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec

import torch
from part import Part

STEPS = 3
HAS_COUNTER = find_spec("retrieva_pretrain.platform.waits") is not None


def run(part: Part) -> None:
    """Count over a few steps of four micro-batches each, with documents joined and apart."""
    if part.rehearse and not HAS_COUNTER:
        part.emit("waits", skipped="waits are counted on CUDA")
        return
    few = () if part.rehearse else ("model.num_layers=4",)
    ways = {"documents joined": (), "documents apart": ("data.reset_attention_mask=true",)}
    for name, overrides in list(ways.items())[: 1 if part.rehearse else 2]:
        recipe = part.recipe(*few, *overrides)
        part.join(recipe)
        bench = part.bench(recipe)
        part.attempt("waits", partial(_of_steps, part, bench), name=name)
        bench.close()


def _of_steps(part: Part, bench: object) -> dict[str, object]:
    stepper = bench.stepper(0, 4 if part.rehearse else 32, 4)  # type: ignore[attr-defined]
    for step in range(2):  # the first allocates and compiles
        stepper.train_step(step)
    with _counted() as waits:
        for step in range(2, 2 + STEPS):
            stepper.train_step(step)
    stepper.prefetch.close()
    return {"steps": STEPS, "waits_per_step": len(waits) / STEPS, "where": Counter(waits).most_common(12)}


@contextmanager
def _counted() -> Iterator[list[str]]:
    """Collect one text a wait; complete when the block ends."""
    if HAS_COUNTER:
        from retrieva_pretrain.platform.waits import count_waits

        found: list[str] = []
        with count_waits() as waits:
            yield found
        found += [f"{wait.what} at {wait.where}" for wait in waits]
        return
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, kind, file, line, *rest: found.append(f"{file}:{line}")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")
