"""Documents inside samples, counted and numbered."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieva_pretrain.data.segments import document_bounds, position_ids, segment_ids

CLS, SEP, END = 5, 6, 2


def segments(row: list[int], ends: set[int], *, window_tokens: bool) -> list[int]:
    return segment_ids(np.array([row]), ends, window_tokens=window_tokens)[0].tolist()


def positions(row: list[int]) -> list[int]:
    return position_ids(np.array([row]))[0].tolist()


def test_an_end_token_belongs_to_the_document_it_ends() -> None:
    row = [CLS, 10, 11, SEP, CLS, 12, SEP, CLS, 13, 14]
    assert segments(row, {SEP}, window_tokens=False) == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert positions([0, 0, 0, 0, 1, 1, 1, 2, 2, 2]) == [0, 1, 2, 3, 0, 1, 2, 0, 1, 2]


def test_a_window_that_begins_inside_a_document_holds_a_part_of_it() -> None:
    assert segments([10, 11, SEP, CLS, 12, 13], {SEP}, window_tokens=False) == [0, 0, 0, 1, 1, 1]
    assert segments([SEP, CLS, 12, SEP], {SEP}, window_tokens=False) == [0, 1, 1, 1]


def test_the_window_s_own_tokens_belong_to_the_documents_beside_them() -> None:
    assert segments([CLS, 10, END, 11, END, SEP], {END}, window_tokens=True) == [0, 0, 0, 1, 1, 1]
    assert positions([0, 0, 0, 1, 1, 1]) == [0, 1, 2, 0, 1, 2]


def test_a_document_of_nothing_but_its_end_is_one() -> None:
    assert segments([10, END, END, END, 11], {END}, window_tokens=False) == [0, 0, 1, 2, 3]
    assert positions([0, 0, 1, 2, 3]) == [0, 1, 0, 0, 0]


def test_corpora_of_several_end_tokens_are_told_apart_alike() -> None:
    assert segments([10, END, 11, SEP, 12], {END, SEP}, window_tokens=False) == [0, 0, 1, 1, 2]


@given(rows=st.lists(st.lists(st.integers(0, 9), min_size=12, max_size=12), min_size=1, max_size=4))
def test_positions_count_up_inside_a_segment_and_begin_at_0(rows: list[list[int]]) -> None:
    numbers = segment_ids(np.array(rows), {END, SEP}, window_tokens=False)
    places = position_ids(numbers)
    assert numbers.dtype == places.dtype == np.int64
    for row, number, place in zip(rows, numbers.tolist(), places.tolist(), strict=True):
        for column in range(12):
            if column == 0 or row[column - 1] in (END, SEP):
                assert place[column] == 0
                assert number[column] == (number[column - 1] + 1 if column else 0)
            else:
                assert place[column] == place[column - 1] + 1
                assert number[column] == number[column - 1]


def test_bounds_of_documents_laid_end_to_end_are_filled_up_with_empty_ones() -> None:
    bounds = document_bounds(np.array([[0, 0, 1, 1, 1], [0, 0, 0, 0, 1]]))
    assert bounds.dtype == np.int32 and bounds.shape == (64,)
    assert bounds.tolist() == [0, 2, 5, 9, *[10] * 60]


@pytest.mark.parametrize(("documents", "entries"), [(1, 64), (63, 64), (64, 128), (127, 128), (128, 192)])
def test_bounds_come_in_few_sizes(documents: int, entries: int) -> None:
    bounds = document_bounds(np.arange(documents)[None, :])
    assert bounds.tolist() == [*range(documents), *[documents] * (entries - documents)]


@given(rows=st.lists(st.lists(st.integers(0, 9), min_size=12, max_size=12), min_size=1, max_size=12))
def test_documents_between_bounds_are_those_of_the_segments(rows: list[list[int]]) -> None:
    numbers = segment_ids(np.array(rows), {END, SEP}, window_tokens=False)
    bounds = document_bounds(numbers)
    document = np.searchsorted(np.unique(bounds), np.arange(numbers.size), side="right").tolist()
    flat = [(row, number) for row, line in enumerate(numbers.tolist()) for number in line]
    names = {name: place for place, name in enumerate(dict.fromkeys(flat), 1)}
    assert document == [names[name] for name in flat]
    assert bounds[0] == 0 and bounds[-1] == numbers.size and len(bounds) % 64 == 0
