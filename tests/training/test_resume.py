"""A run that is killed goes on as if nothing had happened."""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING

import pytest

from retrieva_pretrain.launch.torchrun import kill_tree
from tests.fast_path import FAST_PATH

if TYPE_CHECKING:
    from tests.training.conftest import World

pytestmark = pytest.mark.engine


@pytest.mark.parametrize(
    "kernels",
    [pytest.param((), id="CPU's kernels"), pytest.param(FAST_PATH, id="fast path", marks=pytest.mark.slow)],
)
def test_a_run_killed_at_random_steps_repeats_the_undisturbed_losses_to_the_bit(
    world: World, kernels: tuple[str, ...]
) -> None:
    undisturbed = {r["step"]: r for r in world.train("name=undisturbed", *kernels) if r["kind"] == "train"}
    # One kill in the first stage, one in a later one: the resume crosses stage boundaries too.
    total = len(undisturbed)
    for target in (random.randint(3, 7), random.randint(10, 17)):
        process = world.start("name=killed", *kernels)
        world.wait_until("a step", partial(world.has_taken, target, "killed"), process)
        kill_tree(process)
    records = world.train("name=killed", *kernels)
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
