"""Which corpus each sample of a run comes from."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

import numpy as np
from numpy.typing import ArrayLike, NDArray

PERIOD = 1 << 14


class Blend:
    """A mixture of corpora by weight, repeated with a fixed period.

    Weights are rounded to `period`-ths (to 0.006 % with the default period; every corpus gets at least one
    sample a period). The number of samples of corpus k among the first n of the run is then
    `(n // period) * c_k + table[n % period][k]`: exact, O(1), and it never shrinks as n grows.
    """

    def __init__(self, weights: Sequence[float], period: int = PERIOD) -> None:
        if not weights or any(not isfinite(w) or w <= 0 for w in weights):
            raise ValueError(f"weights must be positive numbers, not {list(weights)}")
        if len(weights) > period:
            raise ValueError(f"{len(weights)} corpora do not fit into a period of {period} samples")
        self.period = period
        self.per_period = _largest_remainder(np.asarray(weights, dtype=np.float64), period)
        self._choice = _spread(self.per_period, period)
        # [period + 1, corpora]: samples of each corpus among the first n of a period.
        self._table = np.zeros((period + 1, len(weights)), dtype=np.int64)
        np.cumsum(self._choice[:, None] == np.arange(len(weights)), axis=0, out=self._table[1:])

    def counts(self, samples: ArrayLike) -> NDArray[np.int64]:
        """Return how many of the first n samples each corpus gives: shape [..., corpora] for n of shape [...]."""
        n = np.asarray(samples, dtype=np.int64)
        total = (n // self.period)[..., None] * self.per_period + self._table[n % self.period]
        return np.asarray(total)

    def corpus_of(self, sample_numbers: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return, for each sample number, its corpus and how many samples of that corpus came before it."""
        n = np.asarray(sample_numbers, dtype=np.int64)
        corpus = self._choice[n % self.period]
        before = np.take_along_axis(self.counts(n), corpus[..., None], axis=-1)[..., 0]
        return corpus, before


def _largest_remainder(weights: NDArray[np.float64], period: int) -> NDArray[np.int64]:
    """Divide `period` samples in proportion to the weights, at least one to each."""
    quotas = weights / weights.sum() * period
    shares = np.maximum(np.floor(quotas).astype(np.int64), 1)
    while shares.sum() < period:
        shares[np.argmax(quotas - shares)] += 1
    while shares.sum() > period:
        shares[np.argmax(np.where(shares > 1, shares - quotas, -np.inf))] -= 1
    return shares


def _spread(per_period: NDArray[np.int64], period: int) -> NDArray[np.int64]:
    """Order a period's samples so that every corpus is spread evenly over it.

    The j-th sample of a corpus with c of them belongs at (j + 1/2) / c of the way; sorted by that, ties by
    the corpus's number.
    """
    corpora = np.repeat(np.arange(len(per_period)), per_period)
    ordinal = np.concatenate([np.arange(c) for c in per_period])
    # Compared as exact fractions over one denominator would overflow; a float's rounding is the same
    # everywhere (IEEE 754), so the order is too.
    place = (ordinal + 0.5) / per_period[corpora]
    return corpora[np.lexsort((corpora, place))].astype(np.int64)
