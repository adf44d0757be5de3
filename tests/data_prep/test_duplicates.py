"""The first document of each content stays, whatever memory there is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.duplicates import content_hash, first_occurrences


def naive(shards: list[list[int]]) -> list[list[bool]]:
    seen: set[int] = set()
    return [[value not in seen and not seen.add(value) for value in shard] for shard in shards]  # type: ignore[func-returns-value]


def masks(shards: list[list[int]], memory_bytes: int) -> list[list[bool]]:
    arrays = [np.array(shard, dtype=np.uint64) for shard in shards]
    found = first_occurrences(lambda: arrays, [len(shard) for shard in shards], memory_bytes=memory_bytes)
    return [mask.tolist() for mask in found]


@pytest.mark.parametrize("memory_bytes", [100, 700, 5000, 1 << 30])
@settings(deadline=None, max_examples=50)
@given(
    shards=st.lists(
        st.lists(st.sampled_from([0, 1, 2**63, 2**64 - 1, 2**62 + 5, 77 << 56]), max_size=20), max_size=6
    )
)
def test_masks_are_those_of_a_plain_loop(shards: list[list[int]], memory_bytes: int) -> None:
    assert masks(shards, memory_bytes) == naive(shards)


def test_many_documents_in_many_passes() -> None:
    draw = np.random.default_rng(0)
    values = draw.integers(0, 1 << 64, 3000, dtype=np.uint64)
    shards = [draw.choice(values, size).tolist() for size in (4000, 0, 1, 2500)]
    assert masks(shards, 30_000) == naive(shards)


def test_the_hash_is_of_the_content_and_the_same_everywhere() -> None:
    assert content_hash("あ".encode()) == content_hash("あ".encode()) != content_hash("い".encode())
    assert content_hash(b"") == 0x2D06800538D394C2
