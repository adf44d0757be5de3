"""The shuffle that is computed, not stored."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieva_pretrain.curriculum.permutation import KeyedPermutation

KEYS = st.integers(0, 2**64 - 1)


@given(size=st.integers(0, 3000), key=KEYS)
@settings(deadline=None)
def test_every_element_comes_exactly_once(size: int, key: int) -> None:
    shuffled = KeyedPermutation(size, key)(np.arange(size))
    assert np.array_equal(np.sort(shuffled), np.arange(size))


def test_every_element_comes_exactly_once_for_every_small_size() -> None:
    # Rectangles with and without cells too many, a row or column of one cell among them.
    for size in range(1001):
        assert np.array_equal(np.sort(KeyedPermutation(size, size)(np.arange(size))), np.arange(size))


@given(size=st.integers(2**20, 2**62 - 1), key=KEYS)
@settings(deadline=None)
def test_no_element_of_a_huge_range_comes_twice_or_from_outside(size: int, key: int) -> None:
    positions = np.concatenate([np.arange(500), size - 1 - np.arange(500)])
    shuffled = KeyedPermutation(size, key)(positions)
    assert len(np.unique(shuffled)) == 1000
    assert shuffled.min() >= 0
    assert shuffled.max() < size


@given(size=st.integers(1, 2**50), key=KEYS, data=st.data())
@settings(deadline=None)
def test_an_element_s_place_does_not_depend_on_what_else_is_asked(
    size: int, key: int, data: st.DataObject
) -> None:
    positions = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=20))
    permutation = KeyedPermutation(size, key)
    together = permutation(np.array(positions))
    assert together.tolist() == [int(permutation(p)) for p in positions]


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_every_order_of_a_few_elements_comes_up(size: int) -> None:
    seen = {tuple(KeyedPermutation(size, key)(np.arange(size)).tolist()) for key in range(3000)}
    assert seen == set(permutations(range(size)))


@pytest.mark.parametrize("size", [100, 1000, 100_003, 2**50])
def test_neighbours_are_torn_apart(size: int) -> None:
    count = min(size, 2000)
    shuffled = KeyedPermutation(size, 11)(np.arange(count))
    near = np.abs(np.diff(shuffled)) <= max(2, size // 1000)
    assert near.mean() < 0.1


def test_other_keys_give_other_orders() -> None:
    orders = {KeyedPermutation(50, key)(np.arange(50)).tobytes() for key in range(200)}
    assert len(orders) == 200


def test_an_order_is_the_same_for_ever() -> None:
    assert KeyedPermutation(10, 42)(np.arange(10)).tolist() == [8, 1, 9, 2, 3, 7, 5, 4, 0, 6]
    assert int(KeyedPermutation(2**50, 42)(12345)) == 65066614755942


@pytest.mark.parametrize("position", [-1, 10])
def test_a_position_outside_is_refused(position: int) -> None:
    with pytest.raises(IndexError, match=r"0\.\.9"):
        KeyedPermutation(10, 1)(position)


def test_the_shape_of_the_question_is_that_of_the_answer() -> None:
    assert KeyedPermutation(100, 1)(np.zeros((3, 4), dtype=np.int64)).shape == (3, 4)
    assert KeyedPermutation(0, 1)(np.zeros(0, dtype=np.int64)).shape == (0,)
