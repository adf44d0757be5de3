"""The indexed dataset: Megatron's own bytes, whole or absent, and refused when damaged."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.errors import DataPrepError
from data_prep.indexed import (
    IndexedDataset,
    IndexedDatasetWriter,
    bin_path,
    idx_path,
    token_dtype,
    write_index,
)

DOCUMENTS = [[5, 6, 7, 2], [2], [9, 65499, 2], [], [1, 2]]


def write(prefix: Path, documents: list[list[int]], vocab_size: int = 1000) -> None:
    with IndexedDatasetWriter(prefix, token_dtype(vocab_size)) as writer:
        for document in documents:
            writer.add_document(document)
        writer.finish()
        writer.publish()


@pytest.mark.parametrize("vocab_size", [8, 65499, 65500, 99574])
def test_bytes_are_those_of_megatrons_builder(tmp_path: Path, vocab_size: int) -> None:
    indexed = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    import torch

    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    dtype = indexed.DType.optimal_dtype(vocab_size)
    builder = indexed.IndexedDatasetBuilder(str(bin_path(theirs)), dtype=dtype)
    for document in DOCUMENTS:
        builder.add_document(torch.tensor(document, dtype=torch.int64), [len(document)])
    builder.finalize(str(idx_path(theirs)))
    write(ours, DOCUMENTS, vocab_size)
    assert bin_path(ours).read_bytes() == bin_path(theirs).read_bytes()
    assert idx_path(ours).read_bytes() == idx_path(theirs).read_bytes()


def test_megatron_reads_what_we_write(tmp_path: Path) -> None:
    indexed = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    write(tmp_path / "corpus", DOCUMENTS)
    theirs = indexed.IndexedDataset(str(tmp_path / "corpus"))
    assert [theirs[number].tolist() for number in range(len(theirs))] == DOCUMENTS


def test_we_read_what_megatron_wrote_in_several_sequences_a_document(tmp_path: Path) -> None:
    indexed = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    import torch

    prefix = tmp_path / "corpus"
    builder = indexed.IndexedDatasetBuilder(str(bin_path(prefix)), dtype=np.int32)
    builder.add_document(torch.arange(6), [2, 1, 3])
    builder.add_document(torch.arange(6, 10), [4])
    builder.finalize(str(idx_path(prefix)))
    dataset = IndexedDataset(prefix)
    assert [dataset.document(number).tolist() for number in range(2)] == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9]]
    assert dataset.document_lengths().tolist() == [6, 4]
    assert dataset.sequence_lengths.tolist() == [2, 1, 3, 4]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 65535), max_size=20), max_size=20))
def test_documents_come_back_as_they_went_in(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[int]]
) -> None:
    prefix = tmp_path_factory.mktemp("indexed") / "name.with.dots"
    write(prefix, documents)
    dataset = IndexedDataset(prefix)
    assert [dataset.document(number).tolist() for number in range(dataset.num_documents)] == documents
    # Advice to the system changes nothing of what is read.
    dataset.expect_random_reads()
    with dataset.index_read_here_and_there():
        assert dataset.document_lengths().tolist() == [len(document) for document in documents]
    dataset.let_go_of_index()
    assert [dataset.document(number).tolist() for number in range(dataset.num_documents)] == documents
    assert dataset.tokens.tolist() == [token for document in documents for token in document]
    assert dataset.document_offsets().tolist() == np.cumsum([0, *map(len, documents)]).tolist()


def test_leaving_without_publishing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), IndexedDatasetWriter(tmp_path / "corpus", np.uint16) as writer:
        writer.add_document([1, 2, 3])
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_build_left_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "corpus.bin.partial").write_bytes(b"half a corpus")
    write(tmp_path / "corpus", DOCUMENTS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.bin", "corpus.idx"]
    assert IndexedDataset(tmp_path / "corpus").num_documents == len(DOCUMENTS)


def test_two_builds_of_one_corpus_at_once_are_refused(tmp_path: Path) -> None:
    with (
        IndexedDatasetWriter(tmp_path / "corpus", np.uint16),
        pytest.raises(DataPrepError, match="another process is writing"),
    ):
        IndexedDatasetWriter(tmp_path / "corpus", np.uint16)


def test_an_id_that_does_not_fit_is_refused_instead_of_wrapped(tmp_path: Path) -> None:
    with IndexedDatasetWriter(tmp_path / "corpus", np.uint16) as writer:
        with pytest.raises(DataPrepError, match="does not fit"):
            writer.add_document([65536])
        with pytest.raises(DataPrepError, match="does not fit"):
            writer.add_document(np.array([-1]))


@pytest.mark.parametrize("cut", [0, 20, 33, 34, 50, -1, -8])
def test_an_index_cut_short_is_refused(tmp_path: Path, cut: int) -> None:
    write(tmp_path / "corpus", DOCUMENTS)
    index = idx_path(tmp_path / "corpus")
    index.write_bytes(index.read_bytes()[:cut])
    with pytest.raises(DataPrepError, match=r"corpus\.idx"):
        IndexedDataset(tmp_path / "corpus")


@pytest.mark.parametrize("cut", [0, 1, -1, -2])
def test_a_bin_that_does_not_match_its_index_is_refused(tmp_path: Path, cut: int) -> None:
    write(tmp_path / "corpus", DOCUMENTS)
    data = bin_path(tmp_path / "corpus")
    data.write_bytes(data.read_bytes()[:cut])
    with pytest.raises(DataPrepError, match=r"does not match corpus\.bin"):
        IndexedDataset(tmp_path / "corpus")


def test_other_files_and_missing_files_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataPrepError, match=r"corpus\.idx: No such file"):
        IndexedDataset(tmp_path / "corpus")
    idx_path(tmp_path / "corpus").write_bytes(b"x" * 100)
    with pytest.raises(DataPrepError, match="not a Megatron index"):
        IndexedDataset(tmp_path / "corpus")


def test_lengths_that_do_not_add_up_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "corpus", DOCUMENTS)
    index = idx_path(tmp_path / "corpus")
    damaged = bytearray(index.read_bytes())
    damaged[34] += 1  # the first document's length
    index.write_bytes(damaged)
    with pytest.raises(DataPrepError, match="do not add up"):
        IndexedDataset(tmp_path / "corpus").document_offsets()


def test_a_pickled_dataset_is_its_path_and_not_its_tokens(tmp_path: Path) -> None:
    write(tmp_path / "corpus", [[1, 2, 3]] * 10000)
    frozen = pickle.dumps(IndexedDataset(tmp_path / "corpus"))
    assert len(frozen) < 1000
    assert pickle.loads(frozen).document(9999).tolist() == [1, 2, 3]


@pytest.mark.parametrize("dtype", ["<u2", "<i4"])
def test_an_index_past_2_to_the_31_tokens_and_bytes_is_right(tmp_path: Path, dtype: str) -> None:
    # 2,300 documents of a million tokens: a sparse .bin, and only the ends of it have ids.
    lengths = np.full(2300, 1 << 20, dtype=np.int32)
    lengths[-1] = 3
    total, size = int(lengths.sum(dtype=np.int64)), np.dtype(dtype).itemsize
    assert total > 2**31
    with idx_path(tmp_path / "c").open("wb") as stream:
        write_index(stream.write, lengths, np.dtype(dtype))
    with bin_path(tmp_path / "c").open("wb") as stream:
        stream.truncate(total * size)
        stream.seek((total - 3) * size)
        stream.write(np.array([7, 8, 2], dtype).tobytes())
    ours = IndexedDataset(tmp_path / "c")
    assert ours.document(2299).tolist() == [7, 8, 2]
    assert ours.num_tokens == total
    assert int(ours.document_offsets()[-2]) == total - 3
    assert int(ours.sequence_pointers[-1]) == (total - 3) * size
    theirs = pytest.importorskip("megatron.core.datasets.indexed_dataset").IndexedDataset(str(tmp_path / "c"))
    assert theirs[2299].tolist() == [7, 8, 2]
    assert len(theirs) == 2300
