"""The documents of a corpus in the order in which an epoch reads them."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from data_prep.indexed import IndexedDataset
from retrieva_pretrain.curriculum.hashing import hash64, key_of

Integers = NDArray[np.int64]


class DocumentStream:
    """Some documents of a corpus, one after the other in a given order, as one stretch of tokens."""

    def __init__(self, dataset: IndexedDataset, offsets: Integers, documents: Integers) -> None:
        """Take the dataset, its `document_offsets()` and the numbers of the documents in their order."""
        self.documents = documents
        self._offsets = offsets
        self._dataset = dataset
        # [documents + 1]: where each document begins in the stretch; the last is the stretch's size.
        self._bounds = np.zeros(len(documents) + 1, dtype=np.int64)
        np.cumsum(offsets[documents + 1] - offsets[documents], out=self._bounds[1:])

    @property
    def size(self) -> int:
        """Tokens of the whole stretch."""
        return int(self._bounds[-1])

    def gather(self, starts: Integers, counts: Integers) -> NDArray[np.generic]:
        """Return the tokens of several ranges of the stretch, one range after the other.

        Args:
            starts: first token of each range.
            counts: tokens of each range, at least 1; no range may reach past the end of the stretch.
        """
        ends = starts + counts
        first, after = self._documents_at(starts), self._documents_at(ends - 1) + 1
        # A piece is what one range takes of one document.
        pieces = after - first
        of_range = np.repeat(np.arange(len(starts)), pieces)
        places = np.repeat(first - _exclusive_sum(pieces), pieces) + np.arange(len(of_range))
        begins = np.maximum(self._bounds[places], starts[of_range])
        lengths = np.minimum(self._bounds[places + 1], ends[of_range]) - begins
        sources = self._offsets[self.documents[places]] + begins - self._bounds[places]
        indices = np.repeat(sources - _exclusive_sum(lengths), lengths)
        indices += np.arange(len(indices))
        return np.asarray(self._dataset.tokens)[indices]

    def documents_between(self, start: int, end: int) -> Integers:
        """Return the numbers of the documents that a range of tokens touches."""
        first, last = self._documents_at(np.array([start, end - 1]))
        return self.documents[first : last + 1]

    def _documents_at(self, tokens: Integers) -> Integers:
        """Return the places, in the order, of the documents that hold these tokens of the stretch."""
        return np.asarray(np.searchsorted(self._bounds, tokens, side="right") - 1)


class CorpusStream:
    """The endless stream of a corpus's training documents: epoch after epoch, each in its own keyed order."""

    # The windows of one step lie in two epochs at most (see `curriculum/position.py`), bar tiny corpora.
    _EPOCHS_KEPT = 2

    def __init__(
        self, name: str, dataset: IndexedDataset, offsets: Integers, training: Integers, seed: int
    ) -> None:
        """Take the dataset, its `document_offsets()` and the numbers of the training documents, ascending."""
        self.name = name
        self._dataset = dataset
        self._offsets = offsets
        self._training = training
        self._seed = seed
        self._epochs: OrderedDict[int, DocumentStream] = OrderedDict()
        self.epoch_tokens = int((offsets[training + 1] - offsets[training]).sum())

    def epoch(self, number: int) -> DocumentStream:
        """Return an epoch's documents in its order: sorted by a hash keyed with the epoch's number."""
        if number not in self._epochs:
            while len(self._epochs) >= self._EPOCHS_KEPT:
                self._epochs.popitem(last=False)
            key = key_of(self._seed, "document order", self.name, number)
            # No two hashes are equal, so any way of sorting gives the same order.
            order = self._training[np.argsort(hash64(self._training, key))]
            self._epochs[number] = DocumentStream(self._dataset, self._offsets, order)
        self._epochs.move_to_end(number)
        return self._epochs[number]

    def read(self, offsets: Integers, count: int) -> Integers:
        """Return `count` tokens from each stream offset: int64 [offsets, count]."""
        tokens = np.empty((len(offsets), count), dtype=np.int64)
        columns = np.arange(count)
        size = self.epoch_tokens
        for number in range(int(offsets.min()) // size, int(offsets.max() + count - 1) // size + 1):
            # The columns of each row that lie in this epoch.
            begin = np.clip(number * size - offsets, 0, count)
            end = np.clip((number + 1) * size - offsets, 0, count)
            rows = np.flatnonzero(end > begin)
            if not rows.size:
                continue
            begin, end = begin[rows], end[rows]
            found = self.epoch(number).gather(offsets[rows] + begin - number * size, end - begin)
            if len(found) == tokens.size:
                return found.astype(np.int64).reshape(tokens.shape)
            inside = (columns >= begin[:, None]) & (columns < end[:, None])
            at_row, at_column = np.nonzero(inside)
            tokens[rows[at_row], at_column] = found
        return tokens

    def documents_of(self, offset: int, count: int) -> list[int]:
        """Return the numbers of the documents that `count` tokens from a stream offset touch."""
        documents: list[int] = []
        while count > 0:
            number, start = divmod(offset, self.epoch_tokens)
            part = min(count, self.epoch_tokens - start)
            documents += self.epoch(number).documents_between(start, start + part).tolist()
            offset, count = offset + part, count - part
        return documents


def _exclusive_sum(values: Integers) -> Integers:
    """Return, for each value, the sum of those before it."""
    return np.asarray(np.cumsum(values) - values)
