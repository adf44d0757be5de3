"""A trace holds a step's end and the beginning of the next, and not gigabytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.profiler import record_function

from retrieva_pretrain.training.profiled_steps import ProfiledSteps
from retrieva_pretrain.training.profiling import StepProfiler

pytestmark = pytest.mark.engine
STEPS = 6


def traced(run: Path, steps: ProfiledSteps, micro_batches: int) -> tuple[str, list[str]]:
    """Profile steps that name their parts; returns the trace's name and the parts in it."""
    profiler = StepProfiler(run, steps)
    for step in range(STEPS):
        for number in range(micro_batches):
            profiler.before_micro_batch(step, number, micro_batches)
            with record_function(f"part: {step + 1} batch {number}"):
                torch.ones(2, 2) @ torch.ones(2, 2)
        with record_function(f"part: {step + 1} update"):
            torch.ones(2).mul_(2)
        profiler.after_step(step + 1)
    profiler.close(STEPS)
    (file,) = (run / "profile").iterdir()
    events = json.loads(file.read_text())["traceEvents"]
    assert any("aten::mm" in event["name"] for event in events)
    assert not any("Input Dims" in event.get("args", {}) for event in events)
    return file.name, [e["name"][6:] for e in events if e["name"].startswith("part: ") and e["ph"] == "X"]


def test_few_micro_batches_are_all_in_the_trace(tmp_path: Path) -> None:
    name, parts = traced(tmp_path, ProfiledSteps(2, 3), 2)
    assert name == "steps_2-3.json"
    assert parts == [f"{step} {part}" for step in (2, 3) for part in ("batch 0", "batch 1", "update")]


def test_of_many_there_are_the_last_of_a_step_its_update_and_the_first_of_the_next(tmp_path: Path) -> None:
    name, parts = traced(tmp_path, ProfiledSteps(2, 5), 40)
    assert name == "steps_2-3.json"
    assert parts == [
        *(f"2 batch {number}" for number in range(36, 40)),
        "2 update",
        *(f"3 batch {number}" for number in range(12)),
    ]


def test_one_step_of_many_is_traced_to_its_end(tmp_path: Path) -> None:
    name, parts = traced(tmp_path, ProfiledSteps(STEPS, STEPS), 40)
    assert name == "steps_6-6.json"
    assert parts == [*(f"6 batch {number}" for number in range(36, 40)), "6 update"]
