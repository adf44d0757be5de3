"""Masked language modelling as BERT does it, on the fly and for a whole batch at once.

Devlin et al., 2019: of the chosen positions 80 % become the mask, 10 % a random token, 10 % stay.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from retrieva_pretrain.curriculum.hashing import hash64, key_of

Samples = dict[str, NDArray[np.generic]]

_ROW_STRIDE = 1 << 20
_LAST = np.uint64(0xFFFFFFFFFFFFFFFF)


class Masker:
    """Chooses and replaces tokens; every choice depends on (seed, sample number, position) alone."""

    def __init__(
        self, vocab_size: int, special_ids: Iterable[int], mask_id: int, masking_probability: float, seed: int
    ) -> None:
        """Take the tokenizer's vocabulary (unpadded), the ids that are never text, and the mask's id."""
        self.mask_id = mask_id
        self.probability = masking_probability
        self._is_special = np.zeros(vocab_size, dtype=np.bool_)
        self._is_special[[*special_ids, mask_id]] = True
        # A random token is one that text can hold: never a special piece, never a padded row.
        self._ordinary = np.flatnonzero(~self._is_special)
        self._key_choice = key_of(seed, "mask: which positions")
        self._key_action = key_of(seed, "mask: what becomes of them")
        self._key_token = key_of(seed, "mask: which random token")

    def mask(self, tokens: NDArray[np.int64], sample_numbers: NDArray[np.int64]) -> Samples:
        """Mask windows.

        Args:
            tokens: [b, s], with special tokens in place.
            sample_numbers: [b], each below 2^43.

        Returns:
            `input_ids` int64 [b, s]; `labels` int64 [b, s], the tokens themselves; `loss_mask` float32 [b, s],
            1 at the chosen positions.
        """
        positions = sample_numbers[:, None] * _ROW_STRIDE + np.arange(tokens.shape[1])
        chosen = self._choose(tokens, positions)
        input_ids = tokens.copy()
        rows, columns = np.nonzero(chosen)
        places = positions[rows, columns]
        # Tenths by hash: 0 to 7 mask, 8 random, 9 unchanged.
        tenth = hash64(places, self._key_action) % np.uint64(10)
        input_ids[rows[tenth < 8], columns[tenth < 8]] = self.mask_id
        random = tenth == 8
        draw = hash64(places[random], self._key_token) % np.uint64(len(self._ordinary))
        input_ids[rows[random], columns[random]] = self._ordinary[draw.astype(np.int64)]
        return {"input_ids": input_ids, "labels": tokens, "loss_mask": chosen.astype(np.float32)}

    def _choose(self, tokens: NDArray[np.int64], positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Choose round(p x n) of each row's n ordinary tokens, at least one: those with the smallest hashes."""
        special = self._is_special[tokens]
        hashes = hash64(positions, self._key_choice)
        hashes[special] = _LAST
        ordinary = (~special).sum(axis=1)
        count = np.maximum(np.floor(self.probability * ordinary + 0.5).astype(np.int64), 1)
        ranked = np.sort(hashes, axis=1)
        threshold = ranked[np.arange(len(tokens)), np.minimum(count, tokens.shape[1]) - 1]
        return np.asarray((hashes <= threshold[:, None]) & ~special)
