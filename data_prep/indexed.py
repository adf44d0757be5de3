"""Megatron's indexed dataset, written and read with numpy alone.

`PREFIX.bin` holds the token ids of all sequences back to back. `PREFIX.idx` holds, little-endian:
9 bytes of magic, a uint64 version (1), a uint8 code of the id type, a uint64 number of sequences, a
uint64 number of document indices, then int32 sequence lengths (tokens), int64 sequence pointers
(bytes into the .bin) and int64 document indices (sequence numbers; the first is 0 and there is one
more than documents). What is written here is byte for byte what Megatron's own builder writes.
"""

from __future__ import annotations

import mmap
import struct
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from data_prep.errors import DataPrepError
from data_prep.whole_files import PartialFile, sync_directory

_MAGIC = b"MMIDIDX\x00\x00"
_VERSION = 1
_HEADER = struct.Struct("<9sQBQQ")
_DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("u1"),
    2: np.dtype("i1"),
    3: np.dtype("<i2"),
    4: np.dtype("<i4"),
    5: np.dtype("<i8"),
    8: np.dtype("<u2"),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
MAX_DOCUMENT_TOKENS = int(np.iinfo(np.int32).max)
"""Tokens of one document that the format can hold."""

_INDEX_PIECE = 1 << 20


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """The id type Megatron chooses: uint16 below 65,500 pieces, int32 from there on."""
    return np.dtype("<u2") if vocab_size < 65500 else np.dtype("<i4")


def bin_path(prefix: Path) -> Path:
    """`PREFIX.bin`, also where the prefix itself holds a dot."""
    return prefix.with_name(prefix.name + ".bin")


def idx_path(prefix: Path) -> Path:
    """`PREFIX.idx`, also where the prefix itself holds a dot."""
    return prefix.with_name(prefix.name + ".idx")


class WrittenFile(NamedTuple):
    """Size (bytes) and checksum of a file that was written."""

    sha256: str
    bytes: int


def write_index(
    write: Callable[[bytes], object], lengths: npt.NDArray[np.int32], dtype: np.dtype[Any]
) -> None:
    """Give the content of an .idx to `write`, piece by piece, for documents of one sequence each.

    `lengths` are tokens, int32 [n_documents]. Memory beside them stays with one piece.
    """
    count = len(lengths)
    write(_HEADER.pack(_MAGIC, _VERSION, _CODES[dtype], count, count + 1))
    for start in range(0, count, _INDEX_PIECE):
        write(lengths[start : start + _INDEX_PIECE].astype("<i4").tobytes())
    end = 0
    for start in range(0, count, _INDEX_PIECE):
        # int64: both tokens and bytes pass 2^31 in any corpus of size.
        ends = end + np.cumsum(lengths[start : start + _INDEX_PIECE], dtype=np.int64) * dtype.itemsize
        pointers = np.concatenate([[end], ends[:-1]]).astype("<i8")
        write(pointers.tobytes())
        end = int(ends[-1])
    for start in range(0, count + 1, _INDEX_PIECE):
        write(np.arange(start, min(start + _INDEX_PIECE, count + 1), dtype="<i8").tobytes())


class IndexedDatasetWriter:
    """Writes documents, each as one sequence, under partial names until `publish`.

    Memory grows by 4 bytes a document. Leaving the `with` block without `publish` removes the
    partial files.
    """

    def __init__(self, prefix: Path, dtype: npt.DTypeLike) -> None:
        self.prefix = Path(prefix)
        self.dtype = np.dtype(dtype).newbyteorder("<")
        if self.dtype not in _CODES:
            raise DataPrepError(
                f"{prefix}: token ids cannot be stored as {self.dtype}; take uint16 or int32."
            )
        self.num_tokens = 0
        self._lengths = array("i")
        self._bin = PartialFile(bin_path(self.prefix))
        try:
            self._idx = PartialFile(idx_path(self.prefix))
        except BaseException:
            self._bin.discard()
            raise

    @property
    def num_documents(self) -> int:
        """Documents added so far."""
        return len(self._lengths)

    def add_document(self, ids: Sequence[int] | npt.NDArray[Any]) -> None:
        """Append one document of token ids.

        Raises `DataPrepError` for an id that does not fit the type and for a document past 2^31 - 1 tokens.
        """
        tokens = np.asarray(ids)
        if tokens.size:
            limits = np.iinfo(self.dtype)
            if tokens.min() < limits.min or tokens.max() > limits.max:
                raise DataPrepError(f"{self.prefix}: a token id does not fit {self.dtype.name}.")
        if tokens.size > MAX_DOCUMENT_TOKENS:
            raise DataPrepError(
                f"{self.prefix}: document {self.num_documents} has {tokens.size:,} tokens; the format holds "
                f"at most {MAX_DOCUMENT_TOKENS:,} in one document. Split it in the source."
            )
        self._bin.write(tokens.astype(self.dtype).tobytes())
        self._lengths.append(tokens.size)
        self.num_tokens += tokens.size

    def copy_tokens(self, source: BinaryIO, content: memoryview, start: int, end: int) -> None:
        """Append ids as they lie in bytes `start` to `end` of a .bin of this type, mapped as `content`.

        `add_lengths` tells how they make documents.
        """
        self._bin.copy(source, content, start, end)

    def add_lengths(self, lengths: npt.NDArray[np.int32]) -> None:
        """Append the lengths (tokens) of documents whose ids were or will be given to `copy_tokens`."""
        self._lengths.frombytes(np.ascontiguousarray(lengths, dtype=np.intc).tobytes())
        self.num_tokens += int(lengths.sum(dtype=np.int64))

    def finish(self) -> tuple[WrittenFile, WrittenFile]:
        """Write the index and bring both files to the disk; what .bin and .idx hold.

        The files keep their partial names until `publish`.
        """
        if self._bin.size != self.num_tokens * self.dtype.itemsize:
            raise AssertionError(f"{self._bin.size} bytes of ids for {self.num_tokens} tokens")
        write_index(self._idx.write, np.frombuffer(self._lengths, dtype=np.intc), self.dtype)
        self._bin.sync()
        self._idx.sync()
        return (
            WrittenFile(self._bin.checksum, self._bin.size),
            WrittenFile(self._idx.checksum, self._idx.size),
        )

    def publish(self) -> None:
        """Give the finished files their final names: .bin first, because an .idx promises a .bin."""
        self._bin.publish()
        self._idx.publish()
        sync_directory(self.prefix.parent)

    def discard(self) -> None:
        """Remove what has not been published."""
        self._bin.discard()
        self._idx.discard()

    def __enter__(self) -> IndexedDatasetWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()


class IndexedDataset:
    """A memory-mapped reader. Opening it is O(1) and checks that .idx and .bin belong together.

    - `dtype`: type of the token ids
    - `sequence_lengths`: int32 [n_sequences], tokens
    - `sequence_pointers`: int64 [n_sequences], bytes into the .bin
    - `document_indices`: int64 [n_documents + 1], sequence numbers
    - `tokens`: the whole .bin as one flat array of ids

    Raises `DataPrepError` where a file is missing, truncated, of another format or another pair.
    """

    def __init__(self, prefix: Path) -> None:
        self.prefix = Path(prefix)
        index = _map(idx_path(self.prefix))
        self._index_map = index
        self.dtype, sequences = _header(idx_path(self.prefix), index)
        arrays = index[_HEADER.size :]
        self.sequence_lengths: npt.NDArray[np.int32] = arrays[: 4 * sequences].view("<i4")
        self.sequence_pointers: npt.NDArray[np.int64] = arrays[4 * sequences : 12 * sequences].view("<i8")
        self.document_indices: npt.NDArray[np.int64] = arrays[12 * sequences :].view("<i8")
        data = _map(bin_path(self.prefix))
        self._check_ends(data.nbytes)
        self.tokens: npt.NDArray[Any] = data.view(self.dtype)
        self._token_map = data

    def __reduce__(self) -> tuple[type[IndexedDataset], tuple[Path]]:
        # A worker process maps the files again; pickling the arrays would copy the corpus.
        return IndexedDataset, (self.prefix,)

    def expect_random_reads(self) -> None:
        """Say that `tokens` will be read here and there.

        The system otherwise reads ahead of every place, up to megabytes, and keeps that in memory.
        """
        _advise(self._token_map, "MADV_RANDOM")

    @contextmanager
    def index_read_here_and_there(self) -> Iterator[None]:
        """Read only what is asked for of the .idx, and nothing ahead, until the `with` block ends."""
        _advise(self._index_map, "MADV_RANDOM")
        try:
            yield
        finally:
            _advise(self._index_map, "MADV_NORMAL")

    def let_go_of_index(self) -> None:
        """Let go of what was read of the .idx, which counts as memory of this process until somebody needs it."""
        _advise(self._index_map, "MADV_DONTNEED")

    @property
    def num_documents(self) -> int:
        """Number of documents."""
        return len(self.document_indices) - 1

    @property
    def num_tokens(self) -> int:
        """Number of tokens, end-of-document tokens included."""
        return len(self.tokens)

    def document_offsets(self) -> npt.NDArray[np.int64]:
        """int64 [n_documents + 1]: where each document starts in `tokens`; the last is `num_tokens`.

        Raises `DataPrepError` when the lengths do not add up to the .bin.
        """
        ends = np.zeros(len(self.sequence_lengths) + 1, dtype=np.int64)
        np.cumsum(self.sequence_lengths, dtype=np.int64, out=ends[1:])
        bounds = self.document_indices
        in_range = bounds[0] == 0 and bounds[-1] == len(self.sequence_lengths)
        if not (in_range and ends[-1] == self.num_tokens and (np.diff(bounds) >= 0).all()):
            raise DataPrepError(
                f"{idx_path(self.prefix)}: its lengths do not add up to {bin_path(self.prefix).name}. "
                "The index is damaged; build the corpus again."
            )
        offsets: npt.NDArray[np.int64] = ends[bounds]
        return offsets

    def document_lengths(self) -> npt.NDArray[np.int64]:
        """int64 [n_documents]: tokens of each document."""
        return np.diff(self.document_offsets())

    def document(self, number: int) -> npt.NDArray[Any]:
        """The token ids of one document (a view of the .bin).

        Raises `IndexError` outside 0 .. num_documents - 1.
        """
        if not 0 <= number < self.num_documents:
            raise IndexError(f"document {number} of {self.num_documents}")
        first, last = (int(bound) for bound in self.document_indices[number : number + 2])
        if first == last:
            return self.tokens[:0]
        start = int(self.sequence_pointers[first]) // self.dtype.itemsize
        return self.tokens[start : start + int(self.sequence_lengths[first:last].sum(dtype=np.int64))]

    def _check_ends(self, bin_bytes: int) -> None:
        """The O(1) part of what `verify` checks in full: the last sequence ends where the .bin ends."""
        index, data = idx_path(self.prefix), bin_path(self.prefix)
        bounds = self.document_indices
        if len(bounds) == 0 or bounds[0] != 0 or bounds[-1] != len(self.sequence_lengths):
            raise DataPrepError(
                f"{index}: its document indices do not span its sequences. "
                "The index is damaged; build the corpus again."
            )
        promised = 0
        if len(self.sequence_lengths):
            promised = int(self.sequence_pointers[-1]) + int(self.sequence_lengths[-1]) * self.dtype.itemsize
        if promised != bin_bytes or bin_bytes % self.dtype.itemsize:
            raise DataPrepError(
                f"{index} does not match {data.name}: the index promises {promised:,} bytes, the .bin has "
                f"{bin_bytes:,}. They are of different builds or one was cut short; build the corpus again."
            )


def _advise(mapped: npt.NDArray[np.uint8], advice: str) -> None:
    """Give the system advice about a whole mapped file, where the system takes such advice."""
    # An empty file is not mapped.
    if isinstance(mapped.base, mmap.mmap) and hasattr(mmap, advice):
        mapped.base.madvise(getattr(mmap, advice))


def _map(path: Path) -> npt.NDArray[np.uint8]:
    """A file as read-only bytes; numpy refuses to map an empty one."""
    try:
        if path.stat().st_size == 0:
            return np.zeros(0, dtype=np.uint8)
        return np.memmap(path, dtype=np.uint8, mode="r")
    except OSError as error:
        raise DataPrepError(
            f"{path}: {error.strerror or error}. "
            "A corpus is named by its prefix, the path without .bin or .idx."
        ) from None


def _header(path: Path, index: npt.NDArray[np.uint8]) -> tuple[np.dtype[Any], int]:
    """(id type, number of sequences) of an index whose size fits its header."""
    if index.nbytes < _HEADER.size:
        raise DataPrepError(
            f"{path}: {index.nbytes} bytes is too short for an index; build the corpus again."
        )
    magic, version, code, sequences, indices = _HEADER.unpack(index[: _HEADER.size].tobytes())
    if magic != _MAGIC:
        raise DataPrepError(f"{path}: not a Megatron index (it does not start with MMIDIDX).")
    if version != _VERSION or code not in _DTYPES:
        raise DataPrepError(f"{path}: index version {version} with id type {code} is not known here.")
    expected = _HEADER.size + 12 * sequences + 8 * indices
    if index.nbytes != expected:
        raise DataPrepError(
            f"{path}: {index.nbytes:,} bytes, but its header promises {expected:,}. "
            "The index was cut short or damaged; build the corpus again."
        )
    return _DTYPES[code], sequences
