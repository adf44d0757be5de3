"""A plain PyTorch loop, which shares only the samples with a run, gives the run's losses and gradient norms."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from benchmarks.reference_loop import SETTINGS, TOLERANCE, Step, compare, reference_steps
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe
from tests.command import retrieva
from tests.fast_path import FAST_KERNELS, FAST_PATH

if TYPE_CHECKING:
    from tests.training.conftest import World

pytestmark = pytest.mark.engine

# Measured over 60 steps: losses 1e-6, gradient norms 3e-7 of themselves. TOLERANCE is for GPUs.
ON_THE_CPU = 1e-5
# The first stage of one step leaves the checkpoint of the initial weights; the third has another length. Weight decay is
# strong, and about half of the steps are clipped: Adam does not see a factor that all steps share.
RECIPE = (
    *SETTINGS,
    "curriculum=[{seq_length: 16, train_iters: 1, max_micro_batch_size: 4},"
    " {seq_length: 16, train_iters: 29, max_micro_batch_size: 4},"
    " {seq_length: 32, train_iters: 30, max_micro_batch_size: 2}]",
    "optimizer.weight_decay=0.1",
    "optimizer.clip_grad=1.5",
    "checkpoint.save_interval=1000",
    "checkpoint.keep=9",
)
RUNS = {"plain": ((), 1), "fast": (FAST_KERNELS, 1), "fast-2": (FAST_PATH, 2)}


@pytest.mark.slow
def test_a_plain_loop_gives_the_losses_and_gradient_norms_of_every_kind_of_run(world: World) -> None:
    logged = {
        name: world.train(f"name={name}", *RECIPE, *settings, processes=processes)
        for name, (settings, processes) in RUNS.items()
    }
    for name, (settings, processes) in RUNS.items():
        log = (world.folder / f"train-{list(RUNS).index(name)}.log").read_text()
        assert f"attention {'sdpa' if settings else 'unfused'}" in log
        assert logged[name][0]["world_size"] == processes
    export = world.folder / "export"
    retrieva("export", world.folder / "runs" / "plain", export, "--step", "1")
    recipe = load_yaml(Recipe, world.folder / "runs" / "plain" / "recipe.yaml")
    reference = list(reference_steps(recipe, export))
    assert {step.seq_length for step in reference} == {16, 32}
    for name, lines in logged.items():
        found = compare(recipe, lines, reference)
        assert found.steps == 60
        assert 10 < found.clipped_steps < 50, "with every step clipped or none, clipping is not seen"
        assert found.last_loss < found.first_loss - 0.3, "the model learnt nothing, so nothing is compared"
        assert not found.exceeds(ON_THE_CPU), (name, found)
    # What the loop would not see, it would not guard.
    for wrong in ({"weight_decay": 0.11}, {"clip_grad": 1.55}, {"adam_eps": 1e-7}, {"min_lr": 2e-5}):
        other = recipe.model_copy(update={"optimizer": recipe.optimizer.model_copy(update=wrong)})
        assert compare(recipe, logged["plain"], list(reference_steps(other, export))).exceeds(ON_THE_CPU), (
            wrong
        )


def test_a_difference_beyond_the_tolerance_is_seen(world: World) -> None:
    recipe = load_yaml(Recipe, world.recipe, SETTINGS)
    steps = [Step(5.0, 1.0, 1e-3, 16), Step(4.0, 2.0, 2e-3, 16)]
    lines = [
        {"kind": "train", "step": n, "skipped": None, "loss": s.loss, "grad_norm": s.grad_norm}
        | {"learning_rate": s.learning_rate}
        for n, s in enumerate(steps, start=1)
    ]
    assert not compare(recipe, lines, steps).exceeds()
    for field in ("loss", "grad_norm", "learning_rate"):
        other = replace(steps[1], **{field: getattr(steps[1], field) * (1 + 3 * TOLERANCE)})
        assert compare(recipe, lines, [steps[0], other]).exceeds(), field
    assert compare(recipe, [lines[0], lines[1] | {"loss": float("nan")}], steps).exceeds()
    with pytest.raises(ValueError, match="skipped the steps"):
        compare(recipe, [lines[0], lines[1] | {"skipped": "not finite"}], steps)
    with pytest.raises(ValueError, match="took 2"):
        compare(recipe, lines[:1], steps)
