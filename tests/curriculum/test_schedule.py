"""The learning rate of every step, held against Megatron's own scheduler."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieva_pretrain.curriculum.schedule import learning_rate, scheduled
from retrieva_pretrain.curriculum.stages import Curriculum
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import OptimizerConfig, Recipe

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = REPOSITORY / "tests" / "recipe" / "small.yaml"
WSD_STYLES = ["exponential", "linear", "cosine", "minus_sqrt"]


def small(*overrides: str) -> Recipe:
    return load_yaml(Recipe, SMALL, overrides)


def megatrons_rates(settings: OptimizerConfig, steps: int, beyond: int) -> list[float]:
    """The rate that megatron-core gives to each step of a schedule and to some steps after its end."""
    from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

    group: dict[str, Any] = {}
    scheduler = OptimizerParamScheduler(
        SimpleNamespace(param_groups=[group]),
        init_lr=0.0,
        max_lr=settings.lr,
        min_lr=settings.min_lr,
        lr_warmup_steps=settings.warmup_steps(steps),
        lr_decay_steps=steps,
        lr_decay_style=settings.lr_decay_style,
        start_wd=0.0,
        end_wd=0.0,
        wd_incr_steps=0,
        wd_incr_style="constant",
        wsd_decay_steps=settings.lr_wsd_decay_iters,
        lr_wsd_decay_style=settings.lr_wsd_decay_style,
    )
    rates = []
    for _ in range(steps + beyond):
        rates.append(float(group["lr"]))
        scheduler.step(1)
    return rates


def same(ours: float, theirs: float) -> bool:
    return math.isclose(ours, theirs, rel_tol=1e-12, abs_tol=0.0)


@pytest.mark.parametrize(
    "warmup",
    [
        ["optimizer.lr_warmup_fraction=0.05"],
        ["optimizer.lr_warmup_fraction=null"],
        ["optimizer.lr_warmup_fraction=null", "optimizer.lr_warmup_iters=1"],
        ["optimizer.lr_warmup_fraction=null", "optimizer.lr_warmup_iters=699"],
    ],
)
@pytest.mark.parametrize("style", ["linear", "cosine", "constant", "inverse-square-root"])
def test_the_rate_is_megatrons_at_every_step_and_beyond(style: str, warmup: list[str]) -> None:
    recipe = small(f"optimizer.lr_decay_style={style}", *warmup)
    theirs = megatrons_rates(recipe.optimizer, 700, beyond=20)
    for step, rate in enumerate(theirs):
        assert same(learning_rate(recipe, step), rate), step


@pytest.mark.parametrize("style", WSD_STYLES)
@pytest.mark.parametrize("fall", [1, 70, 665])
def test_the_rate_of_warm_up_stable_decay_is_megatrons(style: str, fall: int) -> None:
    recipe = small(
        "optimizer.lr_decay_style=WSD",
        f"optimizer.lr_wsd_decay_iters={fall}",
        f"optimizer.lr_wsd_decay_style={style}",
    )
    theirs = megatrons_rates(recipe.optimizer, 700, beyond=20)
    for step, rate in enumerate(theirs):
        assert same(learning_rate(recipe, step), rate), step


@settings(deadline=None)
@given(
    lr=st.floats(1e-6, 1.0),
    floor=st.floats(0.0, 1.0),
    steps=st.integers(2, 60),
    warmup=st.floats(0.0, 0.99),
    style=st.sampled_from(["linear", "cosine", "constant", "inverse-square-root", *WSD_STYLES]),
)
def test_the_rate_is_megatrons_for_any_schedule(
    lr: float, floor: float, steps: int, warmup: float, style: str
) -> None:
    wsd = style in WSD_STYLES
    optimizer = OptimizerConfig(
        lr=lr,
        min_lr=floor * lr,
        lr_warmup_fraction=warmup,
        lr_decay_style="WSD" if wsd else style,  # type: ignore[arg-type]
        lr_wsd_decay_style=style if wsd else "linear",  # type: ignore[arg-type]
        lr_wsd_decay_iters=max(1, (steps - math.floor(warmup * steps)) // 2) if wsd else None,
    )
    for step, rate in enumerate(megatrons_rates(optimizer, steps, beyond=5)):
        # Near the end of a fall to 0 both are differences of nearly equal numbers.
        assert math.isclose(scheduled(optimizer, step, steps), rate, rel_tol=1e-12, abs_tol=1e-15 * lr), step


def test_the_rate_of_the_reference_recipe_is_megatrons_at_every_step_of_454_000() -> None:
    recipe = load_yaml(Recipe, REPOSITORY / "recipes" / "retrievabert-1.3b.yaml")
    theirs = megatrons_rates(recipe.optimizer, 454_000, beyond=3)
    assert all(scheduled(recipe.optimizer, step, 454_000) == rate for step, rate in enumerate(theirs))
    for step in (0, 1, 4_539, 4_540, 4_541, 30_999, 31_000, 249_999, 441_999, 453_999, 454_000, 454_001):
        assert learning_rate(recipe, step) == theirs[step]


def test_the_first_step_of_a_warm_up_has_rate_0_and_its_last_the_highest() -> None:
    recipe = small()
    assert learning_rate(recipe, 0) == 0.0
    assert learning_rate(recipe, 35) == recipe.optimizer.lr
    assert learning_rate(recipe, 36) < recipe.optimizer.lr


def test_one_schedule_runs_over_all_stages_by_default() -> None:
    recipe = small()
    theirs = megatrons_rates(recipe.optimizer, Curriculum(recipe).total_steps, beyond=0)
    assert [learning_rate(recipe, step) for step in range(700)] == theirs


def test_the_schedule_begins_anew_in_every_stage_on_request() -> None:
    recipe = small("schedule_scope=stage", "optimizer.lr_decay_style=cosine")
    theirs = [
        rate
        for stage in recipe.curriculum
        for rate in megatrons_rates(recipe.optimizer, stage.train_iters, 0)
    ]
    ours = [learning_rate(recipe, step) for step in range(700)]
    assert all(map(same, ours, theirs))
    for index in range(4):
        assert ours[Curriculum(recipe).stage_steps(index)[0]] == 0.0
    assert learning_rate(recipe, 700) == recipe.optimizer.min_lr
    assert learning_rate(recipe, 10_000) == recipe.optimizer.min_lr


def test_a_stage_of_one_step_has_a_schedule_of_its_own() -> None:
    recipe = small("schedule_scope=stage", "curriculum.3.train_iters=1", "optimizer.lr_decay_style=constant")
    other = small("schedule_scope=stage", "curriculum.3.train_iters=1")
    assert learning_rate(recipe, 650) == learning_rate(recipe, 651) == recipe.optimizer.lr
    assert learning_rate(other, 650) == megatrons_rates(other.optimizer, 1, beyond=0)[0] == other.optimizer.lr
    # After the end the last schedule goes on, not the one before it.
    assert learning_rate(other, 651) == megatrons_rates(other.optimizer, 1, beyond=1)[1]


@pytest.mark.parametrize(
    ("fraction", "steps", "warmup"),
    [(0.01, 454_000, 4_540), (0.29, 100, 29), (0.1, 3, 0), (0.05, 700, 35), (0.57, 100, 57), (0.999, 10, 9)],
)
def test_a_warm_up_fraction_is_a_whole_number_of_steps(fraction: float, steps: int, warmup: int) -> None:
    assert OptimizerConfig(lr=1.0, lr_warmup_fraction=fraction).warmup_steps(steps) == warmup


def test_a_step_before_the_run_has_no_rate() -> None:
    with pytest.raises(IndexError):
        learning_rate(small(), -1)
