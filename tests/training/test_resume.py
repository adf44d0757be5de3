"""A run that is killed goes on as if nothing had happened."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import pytest

from retrieva_pretrain.launch.torchrun import kill_tree

if TYPE_CHECKING:
    from tests.training.conftest import World

pytestmark = pytest.mark.engine


def steps_taken(world: World, name: str) -> int:
    path = world.folder / "runs" / name / "metrics.jsonl"
    if not path.exists():
        return 0
    return max((r["step"] for r in world.metrics(name) if r["kind"] == "train"), default=0)


def test_a_run_killed_at_random_steps_repeats_the_undisturbed_losses_to_the_bit(world: World) -> None:
    undisturbed = {r["step"]: r for r in world.train("name=undisturbed") if r["kind"] == "train"}
    # One kill in the first stage, one in a later one: the resume crosses stage boundaries too.
    total = len(undisturbed)
    for target in (random.randint(3, 7), random.randint(10, 17)):
        process = world.start("name=killed")
        while steps_taken(world, "killed") < target:
            assert process.poll() is None, (world.folder / "train.log").read_text()[-4000:]
            time.sleep(0.02)
        kill_tree(process)
    records = world.train("name=killed")
    resumed = {r["step"]: r for r in records if r["kind"] == "train"}
    assert sorted(resumed) == list(range(1, total + 1))
    starts = [r["step"] for r in records if r["kind"] == "start"]
    assert len(starts) == 3
    assert max(starts) > 0, "nothing was resumed"
    for step, record in undisturbed.items():
        for figure in ("loss", "grad_norm", "learning_rate", "masked_accuracy", "consumed_tokens"):
            assert resumed[step][figure] == record[figure], (step, figure)
    last = max(undisturbed)
    for one, other in zip(
        [r for r in world.metrics("undisturbed") if r["kind"] == "evaluation" and r["step"] == last],
        [r for r in records if r["kind"] == "evaluation" and r["step"] == last],
        strict=True,
    ):
        assert one == other
