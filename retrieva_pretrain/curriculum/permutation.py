"""A shuffle that is never stored: the place of any element is computed when it is asked for."""

from __future__ import annotations

from math import isqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray

from retrieva_pretrain.curriculum.hashing import Hashes, hash64, key_of

ROUNDS = 8


class KeyedPermutation:
    """A bijection on 0..size-1 chosen by a key, O(1) a look-up.

    A Feistel network over the smallest near-square rectangle that holds `size` cells: an element is a row and
    a column, and each round moves one of the two by a hash of the other. A result past the end is fed back
    until it falls inside (cycle walking); the rectangle has fewer than `sqrt(size)` cells too many, so this
    is rare.
    """

    def __init__(self, size: int, key: int) -> None:
        if not 0 <= size < 1 << 62:
            raise ValueError(f"a permutation of {size} elements; between 0 and 2^62 are possible")
        self.size = size
        columns = isqrt(max(size - 1, 0)) + 1
        self._columns = np.uint64(columns)
        self._rows = np.uint64(-(-size // columns) or 1)
        self._keys = [np.uint64(key_of(key, "feistel", number)) for number in range(ROUNDS)]

    def __call__(self, positions: ArrayLike) -> NDArray[np.int64]:
        """Return the elements at `positions` (any shape, each in 0..size-1).

        Raises IndexError for a position outside.
        """
        positions = np.asarray(positions)
        if positions.size and (positions.min() < 0 or positions.max() >= self.size):
            raise IndexError(f"positions must lie in 0..{self.size - 1}")
        values = self._once(positions.astype(np.uint64).ravel())
        outside = np.flatnonzero(values >= self.size)
        while outside.size:
            values[outside] = self._once(values[outside])
            outside = outside[values[outside] >= self.size]
        return values.astype(np.int64).reshape(positions.shape)

    def _once(self, values: Hashes) -> Hashes:
        row: Hashes = np.floor_divide(values, self._columns)
        column: Hashes = values - row * self._columns
        for number, key in enumerate(self._keys):
            if number % 2 == 0:
                _move(row, column, key, self._rows)
            else:
                _move(column, row, key, self._columns)
        row *= self._columns
        row += column
        return row


def _move(moved: Hashes, other: Hashes, key: np.uint64, size: np.uint64) -> None:
    """Add a hash of one coordinate to the other one, modulo its size, in place."""
    total = hash64(other, key)
    # Half a hash, so that the sum cannot wrap around: only then is a round one to one.
    total >>= np.uint64(1)
    total += moved
    # numpy divides by one number six times as fast as it takes remainders.
    np.floor_divide(total, size, out=moved)
    moved *= size
    np.subtract(total, moved, out=moved)
