"""How a recipe divides over processes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieva_pretrain.errors import RecipeError
from retrieva_pretrain.recipe.layout import (
    divisors,
    padded_vocab_size,
    possible_world_sizes,
    stage_layouts,
)
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe

SMALL = Path(__file__).parent / "small.yaml"


def small(*overrides: str) -> Recipe:
    return load_yaml(Recipe, SMALL, overrides)


@settings(deadline=None)
@given(number=st.integers(1, 5000))
def test_divisors_are_all_that_divide(number: int) -> None:
    assert divisors(number) == [d for d in range(1, number + 1) if number % d == 0]


@settings(deadline=None)
@given(batch=st.integers(1, 300), ceiling=st.integers(1, 64), gpus=st.integers(1, 300))
def test_the_micro_batch_is_the_largest_divisor_under_its_ceiling(
    batch: int, ceiling: int, gpus: int
) -> None:
    recipe = small(f"global_batch_size={batch}", f"curriculum.0.max_micro_batch_size={ceiling}")
    if batch % gpus:
        with pytest.raises(RecipeError):
            stage_layouts(recipe, gpus)
        return
    layout = stage_layouts(recipe, gpus)[0]
    assert layout.data_parallel_size == gpus
    assert layout.micro_batch_size * layout.num_microbatches * gpus == batch
    share = batch // gpus
    assert layout.micro_batch_size == max(d for d in range(1, ceiling + 1) if share % d == 0)


@pytest.mark.parametrize(
    ("overrides", "gpus", "words"),
    [
        (
            [],
            6,
            ["6 copies of the model do not divide global_batch_size 64", "Use 2 or 4 or 8 or 16 of them"],
        ),
        ([], 65, ["Use 32 or 64 of them"]),
        (
            ["parallelism.pipeline_model_parallel_size=2"],
            3,
            ["one copy of the model takes 2", "Use 2 or 4 or 8"],
        ),
        (
            ["parallelism.tensor_model_parallel_size=4"],
            2,
            ["one copy of the model takes 4", "Use 4 or 8 of them"],
        ),
        (
            ["parallelism.tensor_model_parallel_size=2"],
            12,
            ["6 copies of the model", "Use 4 or 8 or 16 or 32"],
        ),
    ],
)
def test_gpus_that_do_not_divide_are_refused_with_numbers_that_do(
    overrides: list[str], gpus: int, words: list[str]
) -> None:
    recipe = small(*overrides)
    with pytest.raises(RecipeError) as caught:
        stage_layouts(recipe, gpus)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("parallel", [(1, 1), (2, 1), (2, 2), (4, 4)])
def test_every_possible_number_of_gpus_is_possible(parallel: tuple[int, int]) -> None:
    recipe = small(
        f"parallelism.tensor_model_parallel_size={parallel[0]}",
        f"parallelism.pipeline_model_parallel_size={parallel[1]}",
    )
    for gpus in possible_world_sizes(recipe):
        assert stage_layouts(recipe, gpus)[0].data_parallel_size * parallel[0] * parallel[1] == gpus


@settings(deadline=None)
@given(vocab_size=st.integers(1, 10**6), multiple=st.integers(1, 1000))
def test_the_vocabulary_is_padded_to_the_next_multiple(vocab_size: int, multiple: int) -> None:
    padded = padded_vocab_size(vocab_size, multiple)
    assert padded % multiple == 0
    assert vocab_size <= padded < vocab_size + multiple


def test_the_llm_jp_vocabulary_is_padded_to_778_times_128() -> None:
    assert padded_vocab_size(99574, 128) == 99584
