"""A shuffle that is never stored: the place of any element is computed when it is asked for."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from retrieva_pretrain.curriculum.hashing import hash64, key_of

ROUNDS = 6


class KeyedPermutation:
    """A bijection on 0..size-1 chosen by a key, O(1) a look-up.

    A balanced Feistel network on the smallest even number of bits that holds `size`, with cycle walking: a
    result outside the range is fed back until it falls inside (fewer than four rounds of it on average).
    """

    def __init__(self, size: int, key: int) -> None:
        if size < 0:
            raise ValueError(f"a permutation of {size} elements")
        self.size = size
        self._half = np.uint64(max(1, ((max(size - 1, 1)).bit_length() + 1) // 2))
        self._mask = np.uint64((1 << int(self._half)) - 1)
        self._keys = [np.uint64(key_of(key, "feistel", number)) for number in range(ROUNDS)]

    def __call__(self, positions: ArrayLike) -> NDArray[np.int64]:
        """Return the elements at `positions` (any shape, each in 0..size-1)."""
        positions = np.asarray(positions)
        if positions.size and (positions.min() < 0 or positions.max() >= self.size):
            raise IndexError(f"positions must lie in 0..{self.size - 1}")
        values = self._once(positions.astype(np.uint64).ravel())
        outside = np.flatnonzero(values >= self.size)
        while outside.size:
            values[outside] = self._once(values[outside])
            outside = outside[values[outside] >= self.size]
        return values.astype(np.int64).reshape(positions.shape)

    def _once(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = values >> self._half, values & self._mask
        for key in self._keys:
            left, right = right, left ^ (hash64(right, key) & self._mask)
        return (left << self._half) | right
