"""Which documents of a corpus are kept for evaluation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from retrieva_pretrain.curriculum.hashing import hash64, key_of

# Documents that are looked at together: the work then stays in a CPU's cache.
PIECE = 1 << 16


class HeldOut:
    """The rule by which documents of a corpus are kept for evaluation.

    A document's hash decides, not the run's seed, so runs with other seeds are evaluated on the same text, and
    a larger fraction only adds documents. A positive fraction keeps at least one document where there are two
    or more, and always leaves one to train on.
    """

    def __init__(self, corpus: str, documents: int, fraction: float) -> None:
        """Take the corpus's name, its number of documents and the fraction of them to keep."""
        self.documents = documents
        self.fraction = fraction
        self._key = key_of("held out", corpus)
        self._below = np.uint64(int(fraction * 2.0**64))
        # A document for which the rule is turned round, because the hashes chose none or all.
        self._exception = self._find_exception() if fraction > 0 and documents >= 2 else None

    def __call__(self, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return whether the documents with these numbers are kept: bool, of the same shape."""
        if self.fraction <= 0 or self.documents < 2:
            return np.zeros(numbers.shape, dtype=np.bool_)
        chosen = np.asarray(hash64(numbers, self._key) < self._below)
        if self._exception is not None:
            chosen ^= numbers == self._exception
        return chosen

    def numbers(self) -> Iterator[NDArray[np.int64]]:
        """Yield the numbers of the documents that are kept, ascending, in pieces: int64 [any]."""
        if self.fraction > 0:
            for piece in self._pieces():
                yield piece[self(piece)]

    def _pieces(self) -> Iterator[NDArray[np.int64]]:
        for start in range(0, self.documents, PIECE):
            yield np.arange(start, min(start + PIECE, self.documents))

    def _find_exception(self) -> int | None:
        """Return the document of the smallest hash where none is chosen, of the largest where all are.

        Almost always the first piece settles that neither is so.
        """
        some_are = some_are_not = False
        smallest, largest = (2**64, -1), (-1, -1)
        for piece in self._pieces():
            hashes = hash64(piece, self._key)
            some_are |= bool(hashes.min() < self._below)
            some_are_not |= bool(hashes.max() >= self._below)
            if some_are and some_are_not:
                return None
            at = int(hashes.argmin())
            smallest = min(smallest, (int(hashes[at]), int(piece[at])))
            at = int(hashes.argmax())
            largest = max(largest, (int(hashes[at]), int(piece[at])))
        return largest[1] if some_are else smallest[1]
