"""Keyed 64-bit hashes: where every random choice about data comes from.

Library generators may change their streams between versions and cannot be asked for the millionth draw alone;
these hashes are the same for ever and answer any position at once. The mixing function is the finaliser of
SplitMix64 (Steele, Lea and Flood, 2014).
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
    text = "\0".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "little")


def mix(values: Hashes) -> Hashes:
    """Map 64-bit values one to one to values in which every bit depends on every bit."""
    with np.errstate(over="ignore"):
        values = (values ^ (values >> np.uint64(30))) * _MULTIPLIER_1
        values = (values ^ (values >> np.uint64(27))) * _MULTIPLIER_2
        return values ^ (values >> np.uint64(31))


def hash64(values: ArrayLike, key: ArrayLike) -> Hashes:
    """Hash integers under a key. `values` and `key` broadcast; the result has their common shape.

    For one key this is a bijection of the 64-bit integers: different values never collide.
    """
    with np.errstate(over="ignore"):
        counters = np.asarray(values).astype(np.uint64) * _GAMMA
        return mix(mix(counters) ^ np.asarray(key, dtype=np.uint64))
