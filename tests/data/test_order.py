"""The documents of a corpus as one endless stream."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.indexed import IndexedDataset, IndexedDatasetWriter
from retrieva_pretrain.data.order import CorpusStream, DocumentStream

LENGTHS = [3, 0, 7, 1, 0, 0, 12, 5, 2, 40, 0]


def dataset(folder: Path) -> IndexedDataset:
    """A corpus in which every token has a number of its own; some documents are empty."""
    with IndexedDatasetWriter(folder / "corpus", np.int32) as writer:
        for length in LENGTHS:
            writer.add_document(np.arange(writer.num_tokens, writer.num_tokens + length))
        writer.finish()
        writer.publish()
    return IndexedDataset(folder / "corpus")


def stream(folder: Path, *, seed: int = 1, name: str = "corpus") -> CorpusStream:
    """The stream of all but the document of length 12."""
    documents = dataset(folder)
    training = np.array([number for number in range(len(LENGTHS)) if LENGTHS[number] != 12])
    return CorpusStream(name, documents, documents.document_offsets(), training, seed)


def test_an_epoch_reads_every_training_document_once_and_whole(tmp_path: Path) -> None:
    corpus = stream(tmp_path)
    documents = dataset(tmp_path)
    for epoch in range(5):
        order = corpus.epoch(epoch).documents
        assert sorted(order.tolist()) == [n for n in range(len(LENGTHS)) if LENGTHS[n] != 12]
        read = corpus.read(np.array([epoch * corpus.epoch_tokens]), corpus.epoch_tokens)[0]
        expected = np.concatenate([documents.document(n) for n in order.tolist()])
        assert np.array_equal(read, expected)


def test_every_epoch_corpus_and_seed_has_an_order_of_its_own(tmp_path: Path) -> None:
    orders = [
        stream(tmp_path, seed=seed, name=name).epoch(epoch).documents.tolist()
        for seed, name, epoch in [(1, "corpus", 0), (1, "corpus", 1), (2, "corpus", 0), (1, "other", 0)]
    ]
    assert len({tuple(order) for order in orders}) == 4


def test_reading_anywhere_is_reading_the_whole_stream_and_cutting(tmp_path: Path) -> None:
    corpus = stream(tmp_path)
    whole = np.concatenate(
        [corpus.read(np.array([e * corpus.epoch_tokens]), corpus.epoch_tokens)[0] for e in range(8)]
    )

    @given(
        offsets=st.lists(st.integers(0, 5 * corpus.epoch_tokens), min_size=1, max_size=20),
        count=st.integers(1, 3 * corpus.epoch_tokens),
    )
    @settings(deadline=None)
    def read_and_compare(offsets: list[int], count: int) -> None:
        rows = corpus.read(np.array(offsets), count)
        assert rows.dtype == np.int64
        for row, offset in zip(rows, offsets, strict=True):
            assert np.array_equal(row, whole[offset : offset + count])

    read_and_compare()


def test_the_documents_of_a_window_are_those_its_tokens_lie_in(tmp_path: Path) -> None:
    corpus = stream(tmp_path)
    document_of = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
    for offset in range(2 * corpus.epoch_tokens):
        tokens = corpus.read(np.array([offset]), 9)[0]
        named = corpus.documents_of(offset, 9)
        # A window over the end of an epoch may meet a document again.
        in_order = list(dict.fromkeys(n for n in named if LENGTHS[n]))
        assert in_order == list(dict.fromkeys(document_of[tokens].tolist()))


def test_at_most_two_epochs_are_kept_in_memory(tmp_path: Path) -> None:
    corpus = stream(tmp_path)
    corpus.read(np.array([0]), 20 * corpus.epoch_tokens)
    assert len(corpus._epochs) == 2


def test_a_stretch_of_no_documents_is_empty(tmp_path: Path) -> None:
    documents = dataset(tmp_path)
    empty = DocumentStream(documents, documents.document_offsets(), np.zeros(0, dtype=np.int64))
    assert empty.size == 0
