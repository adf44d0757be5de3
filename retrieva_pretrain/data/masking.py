"""Masked language modelling on the fly and for a whole batch at once.

Devlin et al., 2019: of the chosen positions 80 % become the mask, 10 % a random token, 10 % stay. What is chosen
together is a token, a word (`data/words.py`), or a span of words.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retrieva_pretrain.curriculum.hashing import Hashes, hash64, key_of
from retrieva_pretrain.data.words import Words

Samples = dict[str, NDArray[np.generic]]

_ROW_STRIDE = 1 << 20
_IN_ROW = np.uint64(_ROW_STRIDE - 1)
_LAST = np.uint64(0xFFFFFFFFFFFFFFFF)


@dataclass(frozen=True)
class SpanLengths:
    """Lengths of spans, in words: min(G, longest) with G geometric, so that the mean is `mean`.

    SpanBERT (Joshi et al., 2020, section 3.1) draws lengths from Geo(0.2) clipped at 10, 3.8 words on average. A
    geometric length has no memory: walking through a text, each word begins a new span with one probability,
    whatever came before. So a hash of each word's own position decides, and no draw waits for another.
    """

    mean: float
    longest: int

    @property
    def probability(self) -> float:
        """The q of G with E[min(G, longest)] = (1 - (1 - q)^longest) / q = mean, by bisection; 0: all longest."""
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            if (1 - (1 - middle) ** self.longest) / middle > self.mean:
                low = middle
            else:
                high = middle
        return high


@dataclass(frozen=True)
class Replacements:
    """What becomes of the chosen tokens; the rest stay."""

    mask: float = 0.8
    random: float = 0.1


class Masker:
    """Chooses and replaces tokens; every choice depends on (seed, sample number, position) and the text alone."""

    def __init__(
        self,
        vocab_size: int,
        special_ids: Iterable[int],
        mask_id: int,
        masking_probability: float,
        seed: int,
        *,
        words: Words | None = None,
        spans: SpanLengths | None = None,
        replacements: Replacements | None = None,
    ) -> None:
        """Take the tokenizer's vocabulary (unpadded), the ids that are never text, and the mask's id.

        With `words` whole words are chosen, with `spans` too spans of whole words.
        """
        self.mask_id = mask_id
        self.probability = masking_probability
        self.replacements = replacements or Replacements()
        self._words = words
        self._spans = spans
        if spans is not None:
            if words is None:
                raise ValueError("spans are made of words")
            # Rounded to 32 bits: the last bits of a power are not the same on every machine.
            self._span_begins = np.uint64(min(round(spans.probability * 2.0**32) << 32, 2**64 - 1))
        self._is_special = np.zeros(vocab_size, dtype=np.bool_)
        self._is_special[[*special_ids, mask_id]] = True
        # A random token is one that text can hold: never a special piece, never a padded row.
        self._ordinary = np.flatnonzero(~self._is_special)
        self._key_choice = key_of(seed, "mask: which positions")
        self._key_span = key_of(seed, "mask: where spans begin")
        self._key_action = key_of(seed, "mask: what becomes of them")
        self._key_token = key_of(seed, "mask: which random token")

    def mask(self, tokens: NDArray[np.int64], sample_numbers: NDArray[np.int64]) -> Samples:
        """Mask windows.

        Args:
            tokens: [b, s], with special tokens in place.
            sample_numbers: [b], each below 2^43.

        Returns:
            `input_ids` int64 [b, s]; `labels` int64 [b, s], the tokens themselves; `loss_mask` float32 [b, s],
            1 at the chosen positions: round(p x n) of each row's n ordinary tokens, at least one.
        """
        rows = (sample_numbers[:, None] * _ROW_STRIDE).astype(np.uint64)
        special = self._is_special[tokens]
        columns = np.arange(tokens.shape[1], dtype=np.uint64)
        unit = None if self._words is None else self._units(tokens, special, rows, columns)
        chosen = self._choose(special, rows, columns, unit)
        places = np.flatnonzero(chosen)
        of_row, column = np.divmod(places, tokens.shape[1])
        positions = rows[of_row, 0] + column.astype(np.uint64)
        # SpanBERT replaces a span as a whole; BERT decides for each token, also of a word.
        together = (
            positions if self._spans is None or unit is None else rows[of_row, 0] + unit.ravel()[places]
        )
        input_ids = tokens.copy()
        self._replace(input_ids.reshape(-1), places, positions, together)
        return {"input_ids": input_ids, "labels": tokens, "loss_mask": chosen.astype(np.float32)}

    def _units(
        self, tokens: NDArray[np.int64], special: NDArray[np.bool_], rows: Hashes, columns: Hashes
    ) -> Hashes:
        """Return the column where the word or span of each token begins, uint64 [b, s]."""
        assert self._words is not None
        begins = self._words.begin(tokens)
        # Also what the vocabulary does not call special, such as the end token of a corpus, is no text.
        begins |= special
        begins[:, 1:] |= special[:, :-1]
        if self._spans is not None:
            begins &= self._span_begin(begins, special, rows, columns, self._spans.longest)
        return np.asarray(np.maximum.accumulate(np.where(begins, columns, np.uint64(0)), axis=1))

    def _span_begin(
        self,
        words: NDArray[np.bool_],
        special: NDArray[np.bool_],
        rows: Hashes,
        columns: Hashes,
        longest: int,
    ) -> NDArray[np.bool_]:
        """Return, at the beginnings of words, whether a span begins there too; anything elsewhere."""
        drawn = hash64(rows + columns, self._key_span) < self._span_begins
        drawn |= special
        drawn[:, 1:] |= special[:, :-1]
        drawn[:, 0] = True
        drawn &= words
        number = np.cumsum(words, axis=1, dtype=np.int32)
        since = number - np.maximum.accumulate(np.where(drawn, number, 0), axis=1)
        # What is longer than the longest is cut there, and is a new span with the same law.
        return np.asarray(since % longest == 0)

    def _choose(
        self, special: NDArray[np.bool_], rows: Hashes, columns: Hashes, unit: Hashes | None
    ) -> NDArray[np.bool_]:
        """Choose the ordinary tokens with the smallest hashes, all tokens of a unit having one hash.

        Of equal hashes the one further left is smaller, so the last unit that is needed is cut at its end.
        """
        if unit is None:
            hashes = hash64(rows + columns, self._key_choice)
        else:
            hashes = hash64(rows + unit, self._key_choice)
            # The low bits make room for the column: units stay together, and no two tokens are equal.
            hashes &= ~_IN_ROW
            hashes |= columns
        hashes[special] = _LAST
        length = special.shape[1]
        ordinary = length - np.count_nonzero(special, axis=1)
        count = np.maximum(np.floor(self.probability * ordinary + 0.5).astype(np.int64), 1)
        most = int(count.max(initial=1))
        smallest = np.partition(hashes, most - 1, axis=1)[:, :most] if 4 * most < length else hashes
        ranked = np.sort(smallest, axis=1)
        threshold = ranked[np.arange(len(hashes)), count - 1]
        chosen = hashes <= threshold[:, None]
        chosen &= ~special
        return np.asarray(chosen)

    def _replace(
        self, tokens: NDArray[np.int64], places: NDArray[np.int64], positions: Hashes, together: Hashes
    ) -> None:
        """Put the mask or a random token where the hashes say so, in place: tokens [b x s]."""
        # Tenths by hash and what is left of it for shares that are no tenths: 0 to 7 mask, 8 random, 9 stay.
        left, tenth = np.divmod(hash64(together, self._key_action), np.uint64(10))
        draw = tenth + (left & _IN_ROW) / float(_ROW_STRIDE)
        shares = self.replacements
        masked = draw < 10 * shares.mask
        tokens[places[masked]] = self.mask_id
        random = ~masked & (draw < 10 * (shares.mask + shares.random))
        which = hash64(positions[random], self._key_token) % np.uint64(len(self._ordinary))
        tokens[places[random]] = self._ordinary[which.astype(np.int64)]
