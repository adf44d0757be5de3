"""The documents of a corpus in the order in which an epoch reads them."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from data_prep.indexed import IndexedDataset
from retrieva_pretrain.curriculum.hashing import hash64, key_of

Tokens = NDArray[np.int64]


def is_held_out(corpus: str, documents: int, fraction: float) -> NDArray[np.bool_]:
    """Return, for each document of a corpus, whether it is kept for evaluation: bool [documents].

    A document's hash decides, not the run's seed, so runs with other seeds are evaluated on the same text. A
    positive fraction keeps at least one document where there are two or more.
    """
    if fraction <= 0 or documents < 2:
        return np.zeros(documents, dtype=np.bool_)
    hashes = hash64(np.arange(documents), key_of("held out", corpus))
    chosen = hashes < np.uint64(int(fraction * 2.0**64))
    if not chosen.any():
        chosen[np.argmin(hashes)] = True
    if chosen.all():
        chosen[np.argmax(hashes)] = False
    return np.asarray(chosen)


class DocumentStream:
    """Some documents of a corpus, one after the other in a given order, as one stretch of tokens."""

    def __init__(self, dataset: IndexedDataset, documents: NDArray[np.int64]) -> None:
        self.documents = documents
        self._tokens = dataset.tokens
        self._starts = dataset.document_offsets()[documents]
        self._ends = np.cumsum(dataset.document_lengths()[documents])

    @property
    def size(self) -> int:
        """Tokens of the whole stretch."""
        return int(self._ends[-1]) if self._ends.size else 0

    def read_into(self, output: NDArray[np.int64], start: int) -> None:
        """Fill `output` with the tokens from `start` on; they must lie inside the stretch."""
        index = int(np.searchsorted(self._ends, start, side="right"))
        filled = 0
        while filled < output.size:
            end = int(self._ends[index])
            place = int(self._starts[index]) + start - (end - self.length(index))
            count = min(end - start, output.size - filled)
            output[filled : filled + count] = self._tokens[place : place + count]
            filled, start, index = filled + count, start + count, index + 1

    def length(self, index: int) -> int:
        """Return the tokens of the document at this place of the order."""
        return int(self._ends[index]) - (int(self._ends[index - 1]) if index else 0)

    def documents_between(self, start: int, end: int) -> NDArray[np.int64]:
        """Return the numbers of the documents that a range of tokens touches."""
        first, last = np.searchsorted(self._ends, [start, end - 1], side="right")
        return self.documents[first : last + 1]


class CorpusStream:
    """The endless stream of a corpus's training documents: epoch after epoch, each in its own keyed order."""

    # The windows of one step lie in two epochs at most (see `curriculum/position.py`), bar tiny corpora.
    _EPOCHS_KEPT = 3

    def __init__(self, name: str, dataset: IndexedDataset, training: NDArray[np.int64], seed: int) -> None:
        """Take the numbers of the training documents, ascending."""
        self.name = name
        self.epoch_tokens = int(dataset.document_lengths()[training].sum())
        self._dataset = dataset
        self._training = training
        self._seed = seed
        self._epochs: OrderedDict[int, DocumentStream] = OrderedDict()

    def epoch(self, number: int) -> DocumentStream:
        """Return an epoch's documents in its order: sorted by a hash keyed with the epoch's number."""
        if number not in self._epochs:
            key = key_of(self._seed, "document order", self.name, number)
            order = np.argsort(hash64(self._training, key), kind="stable")
            self._epochs[number] = DocumentStream(self._dataset, self._training[order])
            if len(self._epochs) > self._EPOCHS_KEPT:
                self._epochs.popitem(last=False)
        self._epochs.move_to_end(number)
        return self._epochs[number]

    def read(self, offsets: NDArray[np.int64], count: int) -> Tokens:
        """Return `count` tokens from each stream offset: int64 [offsets, count]."""
        rows = np.empty((len(offsets), count), dtype=np.int64)
        for row, offset in zip(rows, offsets.tolist(), strict=True):
            filled = 0
            while filled < count:
                number, start = divmod(offset + filled, self.epoch_tokens)
                part = min(count - filled, self.epoch_tokens - start)
                self.epoch(number).read_into(row[filled : filled + part], start)
                filled += part
        return rows

    def documents_of(self, offset: int, count: int) -> list[int]:
        """Return the numbers of the documents that `count` tokens from a stream offset touch."""
        documents: list[int] = []
        while count > 0:
            number, start = divmod(offset, self.epoch_tokens)
            part = min(count, self.epoch_tokens - start)
            documents += self.epoch(number).documents_between(start, start + part).tolist()
            offset, count = offset + part, count - part
        return documents
