"""Keyed 64-bit hashes: where every random choice about data comes from.

Library generators may change their streams between versions and cannot be asked for the millionth draw alone;
these hashes are the same for ever and answer any position at once: SplitMix64 (Steele, Lea and Flood, 2014),
which can jump to any of its outputs.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import ArrayLike, NDArray

Hashes = NDArray[np.uint64]

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIER_1 = np.uint64(0xBF58476D1CE4E5B9)
_MULTIPLIER_2 = np.uint64(0x94D049BB133111EB)


def key_of(*parts: int | str) -> int:
    """Return a 64-bit key that depends on every part, its type and its place.

    Example: `key_of(recipe.seed, "document order", corpus_name, epoch)`.
    """
    # With their lengths, so that no text can pass for two parts; `int`, because numpy's integers count alike.
    texts = [f"str {len(p)} {p}" if isinstance(p, str) else f"int {int(p)}" for p in parts]
    digest = hashlib.sha256("\n".join(texts).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "little")


def hash64(values: ArrayLike, key: ArrayLike) -> Hashes:
    """Hash integers under a key. `values` and `key` broadcast; the result has their common shape.

    This is the `values`-th output of a SplitMix64 generator that starts at `key`. For one key it is a
    bijection of the 64-bit integers: different values never collide.
    """
    # At least one dimension: numpy warns when a scalar wraps around, which is what is wanted here.
    counters = np.atleast_1d(np.asarray(values)).astype(np.uint64, copy=False)
    mixed = np.asarray(counters * _GAMMA + np.asarray(key, dtype=np.uint64))
    mixed ^= mixed >> np.uint64(30)
    mixed *= _MULTIPLIER_1
    mixed ^= mixed >> np.uint64(27)
    mixed *= _MULTIPLIER_2
    mixed ^= mixed >> np.uint64(31)
    return mixed if np.ndim(values) or np.ndim(key) else mixed.reshape(())
