"""The documents of a corpus as one endless stream."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.indexed import IndexedDataset, IndexedDatasetWriter
from retrieva_pretrain.curriculum.hashing import key_of
from retrieva_pretrain.curriculum.permutation import KeyedPermutation
from retrieva_pretrain.data import order
from retrieva_pretrain.data.held_out import HeldOut
from retrieva_pretrain.data.order import CorpusStream, DocumentStream, EpochOrder, block_bounds

LENGTHS = [3, 0, 7, 1, 0, 0, 12, 5, 2, 40, 0, 1, 1, 9, 30, 0, 4, 4, 2, 1, 8]
FRACTION = 0.15


def dataset(folder: Path, lengths: list[int] = LENGTHS) -> IndexedDataset:
    """A corpus in which every token has a number of its own; some documents are empty."""
    with IndexedDatasetWriter(folder / "corpus", np.int32) as writer:
        for length in lengths:
            writer.add_document(np.arange(writer.num_tokens, writer.num_tokens + length))
        writer.finish()
        writer.publish()
    return IndexedDataset(folder / "corpus")


def epoch_order(documents: IndexedDataset, held_out: HeldOut, key: int) -> EpochOrder:
    bounds = np.concatenate(list(block_bounds(documents, held_out, key)))
    return EpochOrder(documents, held_out, key, bounds)


def stream(folder: Path, *, seed: int = 1, name: str = "corpus") -> CorpusStream:
    """The stream of all documents but the held-out ones."""
    documents = dataset(folder)
    held_out = HeldOut("corpus", len(LENGTHS), FRACTION)

    def order_of(epoch: int) -> EpochOrder:
        return epoch_order(documents, held_out, key_of(seed, "document order", name, epoch))

    return CorpusStream(name, order_of(0).size, order_of)


def training_documents() -> list[int]:
    held_out = HeldOut("corpus", len(LENGTHS), FRACTION)(np.arange(len(LENGTHS)))
    assert 1 < held_out.sum() < len(LENGTHS) / 2
    assert any(LENGTHS[n] for n in np.flatnonzero(held_out))
    return np.flatnonzero(~held_out).tolist()


def in_order(corpus: CorpusStream, epoch: int) -> list[int]:
    return corpus.epoch(epoch).documents_between(0, corpus.epoch_tokens).tolist()


def test_an_epoch_reads_every_training_document_once_and_whole(tmp_path: Path) -> None:
    corpus = stream(tmp_path)
    documents = dataset(tmp_path)
    for epoch in range(5):
        named = in_order(corpus, epoch)
        assert sorted(named) == [n for n in training_documents() if LENGTHS[n]]
        read = corpus.read(np.array([epoch * corpus.epoch_tokens]), corpus.epoch_tokens)[0]
        assert np.array_equal(read, np.concatenate([documents.document(n) for n in named]))


def test_every_epoch_corpus_and_seed_has_an_order_of_its_own(tmp_path: Path) -> None:
    orders = [
        in_order(stream(tmp_path, seed=seed, name=name), epoch)
        for seed, name, epoch in [(1, "corpus", 0), (1, "corpus", 1), (2, "corpus", 0), (1, "other", 0)]
    ]
    assert len({tuple(order) for order in orders}) == 4


def test_the_order_is_the_permutation_written_out_for_any_corpus_and_block(tmp_path: Path) -> None:
    folders = count()

    @given(
        lengths=st.lists(st.one_of(st.just(0), st.integers(1, 30)), min_size=1, max_size=150),
        fraction=st.sampled_from([0.0, 0.1, 0.5]),
        key=st.integers(0, 2**64 - 1),
        block=st.sampled_from([1, 2, 3, 16, 64]),
        piece=st.sampled_from([1, 5, 64, 1 << 16]),
        data=st.data(),
    )
    @settings(deadline=None, max_examples=150)
    def compare(
        lengths: list[int], fraction: float, key: int, block: int, piece: int, data: st.DataObject
    ) -> None:
        folder = tmp_path / str(next(folders))
        folder.mkdir()
        documents = dataset(folder, lengths)
        held_out = HeldOut("corpus", len(lengths), fraction)
        shuffled = KeyedPermutation(len(lengths), key)(np.arange(len(lengths)))
        expected = shuffled[~held_out(shuffled)]
        whole = np.concatenate([np.zeros(0), *(documents.document(int(n)) for n in expected)])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(order, "BLOCK", block)
            patch.setattr(order, "PIECE", max(piece, block))
            found = epoch_order(documents, held_out, key)
            assert found.size == len(whole)
            assert len(found._bounds) == order.number_of_blocks(len(lengths)) + 1
            if not whole.size:
                return
            starts = np.array(data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=9)))
            counts = np.array([data.draw(st.integers(1, len(whole) - start)) for start in starts.tolist()])
            tokens = found.gather(starts, counts)
            ranges = [whole[s : s + c] for s, c in zip(starts, counts, strict=True)]
            assert np.array_equal(tokens, np.concatenate(ranges))
            assert found.documents_between(0, found.size).tolist() == [n for n in expected if lengths[n]]

    compare()


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
        # A window over the end of an epoch may meet a document again.
        named = list(dict.fromkeys(corpus.documents_of(offset, 9)))
        assert named == list(dict.fromkeys(document_of[tokens].tolist()))


def test_at_most_two_epochs_are_kept_in_memory(tmp_path: Path) -> None:
    corpus = stream(tmp_path)
    corpus.read(np.array([0]), 20 * corpus.epoch_tokens)
    assert len(corpus._epochs) == 2


def test_a_stretch_of_no_documents_is_empty(tmp_path: Path) -> None:
    empty = DocumentStream(dataset(tmp_path), np.zeros(0, dtype=np.int64))
    assert empty.size == 0


def test_a_stretch_of_chosen_documents_is_read_from_its_start(tmp_path: Path) -> None:
    documents = dataset(tmp_path)
    chosen = DocumentStream(documents, np.array([2, 1, 9, 6]))
    whole = np.concatenate([documents.document(n) for n in (2, 1, 9, 6)])
    assert chosen.size == len(whole)
    for count_ in (1, 7, 8, 50, len(whole), len(whole) + 100):
        assert np.array_equal(chosen.read(count_), whole[:count_])
