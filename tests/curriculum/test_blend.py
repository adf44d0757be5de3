"""The mixture of corpora."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieva_pretrain.curriculum.blend import PERIOD, Blend, blend_weights
from retrieva_pretrain.recipe.schema import Corpus

WEIGHTS = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=8)
PERIODS = st.integers(8, 300)


@given(weights=WEIGHTS, period=PERIODS, n=st.integers(0, 10**15))
@settings(deadline=None)
def test_every_sample_belongs_to_one_corpus_and_counts_never_shrink(
    weights: list[float], period: int, n: int
) -> None:
    counts = Blend(weights, period).counts(np.arange(n, n + 2 * period))
    assert np.array_equal(counts.sum(axis=1), np.arange(n, n + 2 * period))
    assert set(np.unique(np.diff(counts, axis=0)).tolist()) <= {0, 1}


@given(weights=WEIGHTS, period=PERIODS, n=st.integers(0, 10**15))
@settings(deadline=None)
def test_a_sample_s_corpus_is_the_one_whose_count_it_raises(
    weights: list[float], period: int, n: int
) -> None:
    blend = Blend(weights, period)
    numbers = np.arange(n, n + period)
    corpus, before = blend.corpus_of(numbers)
    counts = blend.counts(np.arange(n, n + period + 1))
    assert np.array_equal(np.argmax(np.diff(counts, axis=0), axis=1), corpus)
    assert np.array_equal(counts[:-1][np.arange(period), corpus], before)


@given(weights=WEIGHTS)
@settings(max_examples=25, deadline=None)
def test_shares_are_the_weights_to_one_sample_a_period(weights: list[float]) -> None:
    per_period = Blend(weights).per_period
    quotas = np.array(weights) / sum(weights) * PERIOD
    # A corpus too small for one sample gets one all the same, which the others give up.
    assert (np.abs(per_period - quotas) <= 1 + (quotas < 1).sum()).all()
    assert per_period.sum() == PERIOD
    assert per_period.min() >= 1


@given(weights=WEIGHTS, period=PERIODS)
@settings(deadline=None)
def test_every_corpus_is_spread_evenly(weights: list[float], period: int) -> None:
    blend = Blend(weights, period)
    n = np.arange(2 * period)[:, None]
    ahead = blend.counts(n[:, 0]) - n * blend.per_period / period
    assert np.abs(ahead).max() <= 0.5 + len(weights) / 2


def test_a_blend_is_the_same_for_ever() -> None:
    corpus, _ = Blend([0.5, 0.3, 0.2], period=10).corpus_of(np.arange(12))
    assert corpus.tolist() == [0, 1, 2, 0, 0, 1, 0, 2, 1, 0, 0, 1]


def test_weights_of_any_size_are_shares() -> None:
    assert np.array_equal(Blend([1e308, 1e308]).per_period, Blend([1e-300, 1e-300]).per_period)


@pytest.mark.parametrize("weights", [[], [1.0, 0.0], [-1.0], [float("nan")], [float("inf")]])
def test_weights_that_are_no_shares_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="positive"):
        Blend(weights)


def test_more_corpora_than_a_period_holds_are_refused() -> None:
    with pytest.raises(ValueError, match="5 corpora"):
        Blend([1.0] * 5, period=4)


def test_shares_follow_weights_or_budgets_or_else_tokens() -> None:
    def corpora(**given: list[float]) -> list[Corpus]:
        return [
            Corpus.model_validate({"path": f"c{n}", **{k: values[n] for k, values in given.items()}})
            for n in range(2)
        ]

    assert blend_weights(corpora(weight=[0.5, 1.5]), [10, 30]) == [0.5, 1.5]
    assert blend_weights(corpora(tokens=[7, 3]), [10, None]) == [7.0, 3.0]
    assert blend_weights(corpora(), [10, 30]) == [10.0, 30.0]
    assert blend_weights(corpora(), [10, None]) == [10.0, None]
