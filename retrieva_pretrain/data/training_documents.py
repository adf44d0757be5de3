"""The documents of a corpus that are trained on: how many tokens they have, and their order in each epoch.

Both need a look at every document. For a corpus of up to a quarter of a million that is done at every start, in
a twentieth of a second. A larger one is looked at once, piece by piece, and the result kept in files
(`index_file.py`): the tokens of an epoch, and for every epoch where the blocks of its order begin.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.indexed import IndexedDataset, bin_path, idx_path
from retrieva_pretrain.curriculum.hashing import key_of
from retrieva_pretrain.data.held_out import PIECE, HeldOut
from retrieva_pretrain.data.index_file import IndexFile
from retrieva_pretrain.data.order import (
    BLOCK,
    EpochOrder,
    Watch,
    block_bounds,
    document_starts,
    number_of_blocks,
)
from retrieva_pretrain.errors import CorpusError

Integers = NDArray[np.int64]

IN_MEMORY_DOCUMENTS = 1 << 18
"""Documents of the largest corpus that needs no index files."""

# 20 bytes of each are in the corpus's index: 84 MB.
_LET_GO_EVERY = 1 << 22


class TrainingDocuments:
    """All documents of a corpus but those kept for evaluation."""

    def __init__(
        self, name: str, fingerprint: str, dataset: IndexedDataset, held_out: HeldOut, folder: Path
    ) -> None:
        """Take the corpus's name, its manifest's fingerprint, and the folder of the index files."""
        self.name = name
        self.dataset = dataset
        self.held_out = held_out
        self._folder = folder
        self._made_of = {
            "corpus": name,
            "fingerprint": fingerprint,
            "documents": dataset.num_documents,
            "held_out_fraction": held_out.fraction,
        }

    @property
    def kept_in_files(self) -> bool:
        """Whether the corpus is so large that what is known of all its documents is kept in files."""
        return self.dataset.num_documents > IN_MEMORY_DOCUMENTS

    @property
    def tokens(self) -> int:
        """Tokens of one epoch."""
        return self._counts[1]

    @property
    def documents(self) -> int:
        """Documents of one epoch."""
        return self._counts[0]

    @cached_property
    def _counts(self) -> tuple[int, int]:
        counts = self._values(self.counts_file(), self.count)
        return int(counts[0]), int(counts[1])

    def order(self, seed: int, epoch: int) -> EpochOrder:
        """Return the order of an epoch under a seed: a keyed permutation."""
        bounds = self._values(self.order_file(seed, epoch), lambda: self.bounds(seed, epoch))
        if int(bounds[-1]) != self.tokens:
            raise AssertionError(f"{self.name}: an order of {bounds[-1]} tokens, an epoch of {self.tokens}")
        return EpochOrder(self.dataset, self.held_out, self._key(seed, epoch), bounds)

    def counts_file(self) -> IndexFile:
        """Return the file of the numbers of documents and tokens of an epoch, which `count` makes."""
        return self._file("training", 2, {})

    def order_file(self, seed: int, epoch: int) -> IndexFile:
        """Return the file of an epoch's order, which `bounds` makes."""
        blocks = number_of_blocks(self.dataset.num_documents)
        return self._file(f"epoch{epoch}", blocks + 1, {"seed": seed, "epoch": epoch, "block": BLOCK})

    def count(self, watch: Watch | None = None) -> Iterator[Integers]:
        """Count the documents and tokens of an epoch, and check the corpus's index on the way.

        Yields one piece, int64 [2].

        Raises:
            CorpusError: the index is damaged.
        """
        documents = tokens = start = 0
        while start < self.dataset.num_documents:
            numbers = np.arange(start, min(start + PIECE, self.dataset.num_documents))
            if not index_is_consistent(self.dataset, numbers):
                index = idx_path(self.dataset.prefix)
                raise CorpusError(
                    f"{index} does not match {bin_path(self.dataset.prefix).name}: one of documents"
                    f" {numbers[0]:,} to {numbers[-1]:,} is not where it says. The index is damaged; build the"
                    " corpus again."
                )
            kept = ~self.held_out(numbers)
            documents += int(kept.sum())
            tokens += int(
                self.dataset.sequence_lengths[numbers[0] : numbers[-1] + 1][kept].sum(dtype=np.int64)
            )
            start += len(numbers)
            if start % _LET_GO_EVERY == 0:
                self.dataset.let_go_of_index()
            if watch is not None:
                watch(start)
        yield np.array([documents, tokens])

    def bounds(self, seed: int, epoch: int, watch: Watch | None = None) -> Iterator[Integers]:
        """Work out where the blocks of an epoch's order begin; see `order.block_bounds`."""
        return block_bounds(self.dataset, self.held_out, self._key(seed, epoch), watch)

    def _key(self, seed: int, epoch: int) -> int:
        return key_of(seed, "document order", self.name, epoch)

    def _values(self, file: IndexFile, make: Callable[[], Iterator[Integers]]) -> Integers:
        return file.ensure(make)[0] if self.kept_in_files else np.concatenate(list(make()))

    def _file(self, kind: str, count: int, more: dict[str, Any]) -> IndexFile:
        made_of = {"kind": kind, **self._made_of, **more}
        # In the name too, so that runs of other seeds and corpora of one name can share a folder.
        key = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]
        return IndexFile(self._folder / f"{self.dataset.prefix.name}.{kind}.{key}.index", made_of, count)


def document_ends(dataset: IndexedDataset, documents: Integers) -> Integers:
    """Return the first token behind each of some documents, of one sequence each."""
    return np.asarray(document_starts(dataset, documents) + np.asarray(dataset.sequence_lengths)[documents])


def index_is_consistent(dataset: IndexedDataset, documents: Integers) -> bool:
    """Return whether documents are one sequence each and end where the next one, or the .bin, begins or ends."""
    if len(dataset.sequence_lengths) != dataset.num_documents:
        return False
    if not len(documents):
        return True
    pointers = np.asarray(dataset.sequence_pointers)
    lengths = np.asarray(dataset.sequence_lengths)[documents]
    ends = pointers[documents] + lengths.astype(np.int64) * dataset.dtype.itemsize
    following = np.minimum(documents + 1, dataset.num_documents - 1)
    bin_bytes = dataset.num_tokens * dataset.dtype.itemsize
    promised = np.where(documents + 1 < dataset.num_documents, pointers[following], bin_bytes)
    return bool(
        (lengths >= 0).all()
        and (ends == promised).all()
        and (pointers[documents[documents == 0]] == 0).all()
        and (np.asarray(dataset.document_indices)[documents] == documents).all()
    )
