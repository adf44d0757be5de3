"""The place of every sample in the streams of its corpora."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieva_pretrain.curriculum.blend import Blend
from retrieva_pretrain.curriculum.position import CorpusPositions
from tests.data.conftest import recipe_over


def positions(
    stages: Sequence[tuple[int, int]],
    tokens: Sequence[int],
    *,
    global_batch_size: int = 4,
    seed: int = 1,
    period: int = 16,
) -> CorpusPositions:
    """Positions of a run of (seq_length, train_iters) stages in corpora of so many tokens."""
    names = [f"corpus_{k}" for k in range(len(tokens))]
    blend = [{"path": name} for name in names]
    recipe = recipe_over(Path("any.model"), blend, stages, global_batch_size=global_batch_size, seed=seed)
    return CorpusPositions(recipe, names, tokens, Blend([float(t) for t in tokens], period))


STAGES = st.lists(st.tuples(st.integers(8, 20), st.integers(1, 12)), min_size=1, max_size=4).map(sorted)
TOKENS = st.lists(st.integers(1, 400), min_size=1, max_size=3)


@given(stages=STAGES, tokens=TOKENS)
@settings(deadline=None)
def test_a_stage_starts_where_the_one_before_it_stopped(
    stages: list[tuple[int, int]], tokens: list[int]
) -> None:
    run = positions(stages, tokens)
    for corpus in range(len(tokens)):
        ranges = [run.stage_range(stage, corpus) for stage in range(len(stages))]
        ends = [r.first_token + r.windows * r.payload for r in ranges]
        assert [r.first_token for r in ranges] == [0, *ends[:-1]]


@given(stages=STAGES, tokens=TOKENS, seed=st.integers(0, 2**62))
@settings(max_examples=60, deadline=None)
def test_the_windows_of_a_stage_cover_its_range_exactly_once(
    stages: list[tuple[int, int]], tokens: list[int], seed: int
) -> None:
    run = positions(stages, tokens, seed=seed)
    for stage in range(len(stages)):
        for corpus in range(len(tokens)):
            taken = run.stage_range(stage, corpus)
            offsets = run.stream_offsets(stage, corpus, np.arange(taken.windows))
            assert sorted(offsets.tolist()) == [
                taken.first_token + w * taken.payload for w in range(taken.windows)
            ]


@given(stages=STAGES, tokens=TOKENS)
@settings(deadline=None)
def test_an_epoch_begins_only_when_the_one_before_it_is_used_up(
    stages: list[tuple[int, int]], tokens: list[int]
) -> None:
    run = positions(stages, tokens)
    for corpus, size in enumerate(tokens):
        last_epoch = 0
        for stage in range(len(stages)):
            taken = run.stage_range(stage, corpus)
            offsets = run.stream_offsets(stage, corpus, np.arange(taken.windows))
            for offset in offsets.tolist():
                # A window's tokens in the order in which it reads them.
                for epoch in range(offset // size, (offset + taken.payload - 1) // size + 1):
                    assert epoch >= last_epoch
                    last_epoch = epoch


def test_windows_are_not_taken_in_the_order_of_the_stream() -> None:
    run = positions([(10, 250)], [8 * 500])
    first, second = np.split(run.stream_offsets(0, 0, np.arange(1000)), 2)
    for epoch in (first, second):
        assert (np.diff(epoch) == 8).mean() < 0.02
    # The second epoch, the same windows of another stage, and another seed have orders of their own.
    assert not np.array_equal(second - 8 * 500, first)
    in_two_stages = positions([(10, 125), (10, 125)], [8 * 500])
    assert not np.array_equal(in_two_stages.stream_offsets(1, 0, np.arange(500)), second)
    other = positions([(10, 250)], [8 * 500], seed=2).stream_offsets(0, 0, np.arange(500))
    assert not np.array_equal(other, first)


@given(stages=STAGES, tokens=TOKENS, data=st.data())
@settings(deadline=None)
def test_what_a_step_has_used_is_the_sum_of_its_windows(
    stages: list[tuple[int, int]], tokens: list[int], data: st.DataObject
) -> None:
    run = positions(stages, tokens)
    step = data.draw(st.integers(0, run.curriculum.total_steps))
    used = np.zeros(len(tokens), dtype=np.int64)
    for earlier in range(step):
        corpus, _ = run.blend.corpus_of(np.arange(earlier * 4, earlier * 4 + 4))
        np.add.at(used, corpus, run.curriculum.at(earlier).seq_length - 2)
    assert run.consumed(step).tolist() == used.tolist()
    assert run.epochs(step) == [u / t for u, t in zip(used.tolist(), tokens, strict=True)]


def test_the_step_is_the_whole_position_far_into_a_run_of_a_trillion_tokens() -> None:
    stages = [(128, 31_000), (256, 219_000), (512, 192_000), (2048, 12_000)]
    run = positions(stages, [10**12, 10**11], global_batch_size=1024, period=1 << 16)
    taken = run.stage_range(3, 0)
    chosen = np.array([0, 1, 12345, taken.windows - 1])
    together = run.stream_offsets(3, 0, chosen)
    alone = [int(run.stream_offsets(3, 0, np.array([c]))[0]) for c in chosen.tolist()]
    assert together.tolist() == alone
    assert ((together - taken.first_token) % taken.payload == 0).all()
    payload = 1024 * sum(steps * (length - 2) for length, steps in stages)
    assert int(run.consumed(454_000).sum()) == payload
