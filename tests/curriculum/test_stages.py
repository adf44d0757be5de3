"""The stages of a run over its steps."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieva_pretrain.curriculum.stages import Curriculum
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe

SMALL = load_yaml(Recipe, Path(__file__).parents[1] / "recipe" / "small.yaml")


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    """Recipes with one to six short stages."""
    lengths = sorted(draw(st.lists(st.integers(8, 256), min_size=1, max_size=6)))
    content = SMALL.model_dump()
    content["curriculum"] = [
        {"seq_length": length, "train_iters": draw(st.integers(1, 12)), "max_micro_batch_size": 1}
        for length in lengths
    ]
    content["global_batch_size"] = draw(st.integers(1, 50))
    content["optimizer"]["lr_warmup_fraction"] = 0.0
    return Recipe.model_validate(content)


@settings(deadline=None)
@given(recipe=recipes())
def test_every_step_lies_where_a_walk_through_the_stages_finds_it(recipe: Recipe) -> None:
    curriculum = Curriculum(recipe)
    step = samples = tokens = 0
    for index, stage in enumerate(recipe.curriculum):
        assert curriculum.stage_steps(index) == (step, step + stage.train_iters)
        for step_in_stage in range(stage.train_iters):
            here = curriculum.at(step)
            assert (here.index, here.stage, here.step_in_stage) == (index, stage, step_in_stage)
            assert here.start_step == step - step_in_stage
            assert here.seq_length == stage.seq_length
            assert curriculum.consumed_samples(step) == samples
            assert curriculum.consumed_tokens(step) == tokens
            step += 1
            samples += recipe.global_batch_size
            tokens += recipe.global_batch_size * stage.seq_length
    assert (curriculum.total_steps, curriculum.total_samples, curriculum.total_tokens) == (
        step,
        samples,
        tokens,
    )


@settings(deadline=None)
@given(recipe=recipes())
def test_every_step_lies_in_exactly_one_stage(recipe: Recipe) -> None:
    curriculum = Curriculum(recipe)
    ranges = [range(*curriculum.stage_steps(index)) for index in range(len(recipe.curriculum))]
    for step in range(curriculum.total_steps):
        assert [index for index, steps in enumerate(ranges) if step in steps] == [curriculum.at(step).index]


@settings(deadline=None)
@given(recipe=recipes())
def test_what_is_consumed_grows_with_every_step_and_ends_at_the_total(recipe: Recipe) -> None:
    curriculum = Curriculum(recipe)
    end = curriculum.total_steps
    for of in (curriculum.consumed_samples, curriculum.consumed_tokens):
        amounts = [of(step) for step in range(end + 1)]
        assert amounts[0] == 0
        assert all(later > earlier for earlier, later in pairwise(amounts))
        assert of(end) == of(end + 7)
    assert curriculum.consumed_samples(end) == curriculum.total_samples
    assert curriculum.consumed_tokens(end) == curriculum.total_tokens


@pytest.mark.parametrize("step", [-1, 700, 10**9])
def test_a_step_outside_the_run_has_no_stage(step: int) -> None:
    with pytest.raises(IndexError, match="outside the run of 700 steps"):
        Curriculum(SMALL).at(step)


def test_nothing_is_consumed_before_the_run() -> None:
    with pytest.raises(IndexError):
        Curriculum(SMALL).consumed_samples(-1)
    with pytest.raises(IndexError):
        Curriculum(SMALL).consumed_tokens(-1)
