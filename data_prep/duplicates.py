"""Exact duplicates inside a corpus: the first document of each content stays, in the order of the corpus.

Documents are compared by a 64-bit hash of their UTF-8. Two different ones share a hash with a probability
of about n^2 / 2^65 in a corpus of n documents: 3 % that one document of 10^9 is dropped by mistake.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import xxhash

Hashes = npt.NDArray[np.uint64]
# A hash, its position, and what sorting them takes.
_BYTES_A_DOCUMENT = 40


def content_hash(data: bytes) -> int:
    """The 64-bit hash (XXH3) of a text's UTF-8."""
    return xxhash.xxh3_64_intdigest(data)


def first_occurrences(
    hashes: Callable[[], Iterable[Hashes]], documents: Sequence[int], *, memory_bytes: int = 1 << 30
) -> Iterator[npt.NDArray[np.bool_]]:
    """For each shard a mask of the documents to keep, bool [documents of the shard].

    `hashes` gives the shards' hashes, uint64, in the order of the corpus, each time it is called: it is
    called once for each range of hashes that fits `memory_bytes`. Beside that memory there is one bit for
    each document.
    """
    total = sum(documents)
    passes = 1
    while total * _BYTES_A_DOCUMENT > memory_bytes * passes:
        passes *= 2
    shift = np.uint64(64 - (passes.bit_length() - 1)) if passes > 1 else None
    # One bit a document, in whole bytes a shard.
    kept = [np.zeros((count + 7) // 8, np.uint8) for count in documents]
    for number in range(passes):
        _one_range(hashes(), kept, documents, number, shift)
    for count, bits in zip(documents, kept, strict=True):
        yield np.unpackbits(bits, count=count).astype(bool)


def _one_range(
    hashes: Iterable[Hashes],
    kept: list[npt.NDArray[np.uint8]],
    documents: Sequence[int],
    number: int,
    shift: np.uint64 | None,
) -> None:
    """Mark the first occurrences of the hashes whose top bits are `number`."""
    values, positions, start = [], [], 0
    for shard in hashes:
        chosen = np.arange(len(shard)) if shift is None else np.flatnonzero((shard >> shift) == number)
        values.append(shard[chosen])
        positions.append(chosen + start)
        start += len(shard)
    if not values:
        return
    # Positions ascend, so the first index of each value is its first occurrence.
    _, first = np.unique(np.concatenate(values), return_index=True)
    places = np.sort(np.concatenate(positions)[first])
    bounds = np.concatenate([[0], np.cumsum(documents)])
    edges = np.searchsorted(places, bounds)
    for shard_number, bits in enumerate(kept):
        inside = places[edges[shard_number] : edges[shard_number + 1]] - bounds[shard_number]
        mask = np.zeros(documents[shard_number], np.uint8)
        mask[inside] = 1
        bits |= np.packbits(mask)
