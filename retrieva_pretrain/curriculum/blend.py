"""Which corpus each sample of a run comes from."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

import numpy as np
from numpy.typing import ArrayLike, NDArray

from retrieva_pretrain.recipe.schema import Corpus

PERIOD = 1 << 16


class Blend:
    """A mixture of corpora by weight, repeated with a fixed period.

    Weights are rounded to whole samples a period (1 of 65,536, or 0.0015 % of the run; every corpus gets at
    least one). The number of samples of corpus k among the first n of the run is then
    `(n // period) * c_k + table[n % period][k]`: exact, O(1), and it never shrinks as n grows.
    """

    def __init__(self, weights: Sequence[float], period: int = PERIOD) -> None:
        if not weights or any(not isfinite(w) or w <= 0 for w in weights):
            raise ValueError(f"weights must be positive numbers, not {list(weights)}")
        if len(weights) > period:
            raise ValueError(f"{len(weights)} corpora do not fit into a period of {period} samples")
        self.period = period
        self.per_period = _largest_remainder(np.asarray(weights, dtype=np.float64), period)
        self._choice = _spread(self.per_period)
        # [period, corpora]: samples of each corpus among the first n of a period.
        self._table = np.zeros((period, len(weights)), dtype=np.int32)
        np.cumsum(self._choice[:-1, None] == np.arange(len(weights)), axis=0, out=self._table[1:])

    def counts(self, samples: ArrayLike) -> NDArray[np.int64]:
        """Return how many of the first n samples each corpus gives: shape [..., corpora] for n of shape [...]."""
        n = np.asarray(samples, dtype=np.int64)
        total = (n // self.period)[..., None] * self.per_period + self._table[n % self.period]
        return np.asarray(total)

    def corpus_of(self, sample_numbers: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return, for each sample number, its corpus and how many samples of that corpus came before it."""
        n = np.asarray(sample_numbers, dtype=np.int64)
        corpus = self._choice[n % self.period]
        before = n // self.period * self.per_period[corpus] + self._table[n % self.period, corpus]
        return np.asarray(corpus), np.asarray(before)


def blend_weights(blend: Sequence[Corpus], epoch_tokens: Sequence[int | None]) -> list[float | None]:
    """Return each corpus's weight: the recipe's, its token budget, or else the tokens of one epoch of it.

    A corpus's share of the samples is its share of the tokens read, since the blend is the same in all stages.
    None where shares follow tokens that are not known.
    """
    weights: list[float | None] = []
    for corpus, tokens in zip(blend, epoch_tokens, strict=True):
        given = corpus.weight if corpus.weight is not None else corpus.tokens
        weight = given if given is not None else tokens
        weights.append(None if weight is None else float(weight))
    return weights


def _largest_remainder(weights: NDArray[np.float64], period: int) -> NDArray[np.int64]:
    """Divide `period` samples in proportion to the weights, at least one to each."""
    shares_of_one = weights / weights.max()  # first, so that no sum is infinite
    quotas = shares_of_one / shares_of_one.sum() * period
    shares = np.maximum(np.floor(quotas).astype(np.int64), 1)
    while shares.sum() < period:
        shares[np.argmax(quotas - shares)] += 1
    while shares.sum() > period:
        shares[np.argmax(np.where(shares > 1, shares - quotas, -np.inf))] -= 1
    return np.asarray(shares)


def _spread(per_period: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the corpus of each sample of a period, every corpus spread evenly over it.

    The j-th of a corpus's c samples belongs (j + 1/2) / c of the way; ties go by the corpus's number.
    """
    corpora = np.repeat(np.arange(len(per_period), dtype=np.int64), per_period)
    ordinal = np.concatenate([np.arange(count) for count in per_period])
    return np.asarray(corpora[np.lexsort((corpora, (ordinal + 0.5) / per_period[corpora]))])
