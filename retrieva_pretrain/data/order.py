"""The documents of a corpus in the order in which an epoch reads them.

Documents are shuffled by a keyed permutation that is never stored: which document has the n-th place is
computed when asked for. What has to be known beside it is where in the epoch's tokens a place begins. That is
kept for every 16th place alone, half a byte a document; the 16 documents from there on are added up when asked
for. Held-out documents have places too and no tokens, so they leave without anything being renumbered.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.indexed import IndexedDataset
from retrieva_pretrain.curriculum.permutation import KeyedPermutation
from retrieva_pretrain.data.held_out import PIECE, HeldOut

Integers = NDArray[np.int64]
Watch = Callable[[int], None]
"""Is told how many documents are done."""

BLOCK = 16
"""Places of an order that share one stored number."""


class EpochOrder:
    """The training documents of a corpus in the order of one epoch, as one stretch of tokens."""

    def __init__(self, dataset: IndexedDataset, held_out: HeldOut, key: int, bounds: Integers) -> None:
        """Take the corpus, the order's key and what `block_bounds` yielded for them, joined."""
        self._places = _Places(dataset, held_out, key)
        self._dataset = dataset
        self._bounds = bounds

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
        documents, skipped, lengths = self._pieces(starts, starts + counts)
        return _tokens(self._dataset, document_starts(self._dataset, documents) + skipped, lengths)

    def documents_between(self, start: int, end: int) -> Integers:
        """Return the numbers of the documents that a range of tokens touches."""
        return self._pieces(np.array([start]), np.array([end]))[0]

    def _pieces(self, starts: Integers, ends: Integers) -> tuple[Integers, Integers, Integers]:
        """Return what ranges of the stretch take of documents, range after range.

        A piece is what one range takes of one document: the document's number, how many of its tokens the range
        skips, and how many it takes.
        """
        first = np.searchsorted(self._bounds, starts, side="right") - 1
        blocks = np.searchsorted(self._bounds, ends - 1, side="right") - first
        of_range = np.repeat(np.arange(len(starts)), blocks)
        block = np.repeat(first - _exclusive_sum(blocks), blocks) + np.arange(len(of_range))
        documents, lengths = self._places.of_blocks(block)
        after = np.cumsum(lengths, axis=1)
        after += self._bounds[block, None]
        before = after - lengths
        begin = np.maximum(before, starts[of_range, None])
        taken = np.minimum(after, ends[of_range, None]) - begin
        row, column = np.nonzero(taken > 0)
        return documents[row, column], (begin - before)[row, column], taken[row, column]


def number_of_blocks(documents: int) -> int:
    """Return how many blocks an order of so many documents has. `block_bounds` yields one number more."""
    return -(-documents // BLOCK)


def block_bounds(
    dataset: IndexedDataset, held_out: HeldOut, key: int, watch: Watch | None = None
) -> Iterator[Integers]:
    """Yield, in pieces, where each block of an order begins in its stretch; the last is the stretch's size.

    Memory does not grow with the corpus. int64 [number_of_blocks + 1].
    """
    places = _Places(dataset, held_out, key)
    end, blocks = 0, number_of_blocks(dataset.num_documents)
    yield np.zeros(1, dtype=np.int64)
    for start in range(0, blocks, PIECE // BLOCK):
        after = min(start + PIECE // BLOCK, blocks)
        _, lengths = places.of_blocks(np.arange(start, after))
        bounds = end + np.cumsum(lengths.sum(axis=1))
        end = int(bounds[-1])
        yield bounds
        if watch is not None:
            watch(min(after * BLOCK, dataset.num_documents))


class _Places:
    """The places of an order, held-out documents included."""

    def __init__(self, dataset: IndexedDataset, held_out: HeldOut, key: int) -> None:
        self._count = dataset.num_documents
        self._permutation = KeyedPermutation(self._count, key)
        self._held_out = held_out
        # Bytes, because the file puts the lengths at an address that is no multiple of 4: numpy then takes
        # them four times as fast.
        self._lengths = np.asarray(dataset.sequence_lengths).view(np.uint8).reshape(-1, 4)

    def of_blocks(self, blocks: Integers) -> tuple[Integers, Integers]:
        """Return the documents in blocks and their tokens, 0 where held out: both int64 [blocks, BLOCK]."""
        places = blocks[:, None] * BLOCK + np.arange(BLOCK)
        past_the_end = places >= self._count
        documents = self._permutation(np.minimum(places, max(self._count - 1, 0)))
        found = np.take(self._lengths, documents, axis=0).view("<i4")[..., 0].astype(np.int64)
        found[past_the_end | self._held_out(documents)] = 0
        return documents, found


class DocumentStream:
    """Some documents of a corpus, one after the other in a given order, as one stretch of tokens."""

    def __init__(self, dataset: IndexedDataset, documents: Integers) -> None:
        """Take the dataset and the numbers of the documents in their order."""
        self.documents = documents
        self._dataset = dataset
        # [documents + 1]: where each document begins in the stretch; the last is the stretch's size.
        self._bounds = np.zeros(len(documents) + 1, dtype=np.int64)
        np.cumsum(np.asarray(dataset.sequence_lengths)[documents], dtype=np.int64, out=self._bounds[1:])

    @property
    def size(self) -> int:
        """Tokens of the whole stretch."""
        return int(self._bounds[-1])

    def read(self, count: int) -> NDArray[np.generic]:
        """Return the first `count` tokens; no more than there are."""
        lengths = np.diff(np.minimum(self._bounds, count))
        return _tokens(self._dataset, document_starts(self._dataset, self.documents), lengths)


_EPOCHS_LOCK = threading.Lock()


class CorpusStream:
    """The endless stream of a corpus's training documents: epoch after epoch, each in its own keyed order."""

    # The windows of one step lie in two epochs at most (see `curriculum/position.py`), bar tiny corpora.
    _EPOCHS_KEPT = 2

    def __init__(self, name: str, epoch_tokens: int, order: Callable[[int], EpochOrder]) -> None:
        """Take the corpus's name, the tokens of an epoch, and what gives an epoch's order by its number."""
        self.name = name
        self.epoch_tokens = epoch_tokens
        self._order = order
        self._epochs: OrderedDict[int, EpochOrder] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        # A worker process maps the orders again.
        return {**self.__dict__, "_epochs": OrderedDict()}

    def epoch(self, number: int) -> EpochOrder:
        """Return an epoch's documents in its order."""
        # Read by the thread that makes samples ahead, and by whoever asks where one came from.
        with _EPOCHS_LOCK:
            if number not in self._epochs:
                while len(self._epochs) >= self._EPOCHS_KEPT:
                    self._epochs.popitem(last=False)
                self._epochs[number] = self._order(number)
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


def document_starts(dataset: IndexedDataset, documents: Integers) -> Integers:
    """Return where documents of one sequence each begin in the corpus's tokens."""
    return np.asarray(dataset.sequence_pointers)[documents] // dataset.dtype.itemsize


def _tokens(dataset: IndexedDataset, starts: Integers, lengths: Integers) -> NDArray[np.generic]:
    """Return the tokens of ranges of a corpus, one range after the other."""
    indices = np.repeat(starts - _exclusive_sum(lengths), lengths)
    indices += np.arange(len(indices))
    return np.asarray(dataset.tokens)[indices]


def _exclusive_sum(values: Integers) -> Integers:
    """Return, for each value, the sum of those before it."""
    return np.asarray(np.cumsum(values) - values)
