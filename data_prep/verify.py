"""Whether a corpus on disk is what its manifest says, down to each document, or at a quick look."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.errors import DataPrepError
from data_prep.indexed import IndexedDataset, bin_path, idx_path
from data_prep.manifest import Manifest
from data_prep.whole_files import sha256_file

_CHUNK = 1 << 22
# A quick look: so many places of the .bin, so many tokens at each, and so many documents.
_PLACES, _PLACE_TOKENS, _DOCUMENTS = 64, 1 << 12, 256


@dataclass(frozen=True)
class VerifyReport:
    """What was found; the corpus is good when `problems` is empty."""

    prefix: str
    documents: int
    tokens: int
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def verify(
    prefix: Path, *, quick: bool = False, progress: Callable[[str], None] | None = None
) -> VerifyReport:
    """Check checksums, index, token range and document ends; `progress` is told each check as it starts.

    A `quick` look reads the index whole but of the .bin its size and a sample, a few megabytes of any corpus: it
    finds what is cut off, swapped or of another build, not a byte that has changed.

    Raises `DataPrepError` where the manifest cannot be read or the index is too damaged to go on.
    """
    tell = progress or (lambda _: None)
    manifest = Manifest.load(prefix)
    problems: list[str] = []
    for path, output in ((bin_path(prefix), manifest.outputs.bin), (idx_path(prefix), manifest.outputs.idx)):
        tell(f"checksum of {path.name}")
        sha256 = None if quick and path.suffix == ".bin" else output.sha256
        problems.extend(_checksum(path, sha256, output.bytes))
    try:
        dataset = IndexedDataset(prefix)
    except DataPrepError as error:
        return VerifyReport(str(prefix), 0, 0, [*problems, str(error)])
    if dataset.dtype.name != manifest.dtype:
        problems.append(f"the ids are {dataset.dtype.name}, the manifest says {manifest.dtype}")
    for what, found, said in (
        ("documents", dataset.num_documents, manifest.counts.documents),
        ("tokens", dataset.num_tokens, manifest.counts.tokens),
    ):
        if found != said:
            problems.append(f"{found:,} {what}, the manifest says {said:,}")
    tell("index")
    broken = list(_index(dataset))
    problems.extend(broken)
    # Without a sound index no token can be given to a document.
    if not broken:
        tell("tokens")
        places = _spread(dataset.num_tokens, _PLACES) if quick else range(0, dataset.num_tokens, _CHUNK)
        size = _PLACE_TOKENS if quick else _CHUNK
        problems.extend(_token_range(dataset, manifest.tokenizer.vocab_size, places, size))
        documents = _spread(dataset.num_documents, _DOCUMENTS if quick else dataset.num_documents)
        if manifest.eod is not None:
            tell("document ends")
            problems.extend(_ends(dataset, documents, manifest.eod.id, manifest.eod.piece))
        if manifest.bos is not None:
            tell("document starts")
            problems.extend(_starts(dataset, documents, manifest.bos.id, manifest.bos.piece))
    return VerifyReport(str(prefix), dataset.num_documents, dataset.num_tokens, problems)


def _spread(count: int, most: int) -> Any:
    """Return the numbers from 0 to `count`, or `most` of them, the first and the last among them."""
    if count <= most:
        return range(count)
    return np.unique(np.linspace(0, count - 1, most).astype(np.int64))


def _checksum(path: Path, sha256: str | None, size: int) -> Iterator[str]:
    try:
        found = path.stat().st_size
        if found != size:
            yield f"{path.name}: {found:,} bytes, the manifest says {size:,}"
        elif sha256 is not None and sha256_file(path) != sha256:
            yield f"{path.name}: its sha256 is not the manifest's; the content was changed or damaged"
    except OSError as error:
        yield f"{path.name}: {error.strerror}"


def _index(dataset: IndexedDataset) -> Iterator[str]:
    """Lengths, pointers and document indices of the whole index, each against the others."""
    lengths, pointers, bounds = dataset.sequence_lengths, dataset.sequence_pointers, dataset.document_indices
    if (wrong := _first(lengths < 0)) is not None:
        yield f"sequence {wrong}: a negative length, {lengths[wrong]}"
        return
    ends = np.cumsum(lengths, dtype=np.int64) * dataset.dtype.itemsize
    expected = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
    if (wrong := _first(pointers != expected)) is not None:
        yield f"sequence {wrong}: starts at byte {pointers[wrong]:,}, its place is byte {expected[wrong]:,}"
        return
    if (wrong := _first(np.diff(bounds) < 0)) is not None:
        yield f"document {wrong}: ends before it starts (sequences {bounds[wrong]} to {bounds[wrong + 1]})"
        return
    if (wrong := _first(dataset.document_lengths() == 0)) is not None:
        yield f"document {wrong}: has no tokens"


def _token_range(dataset: IndexedDataset, vocab_size: int, places: Iterable[int], size: int) -> Iterator[str]:
    for start in map(int, places):
        tokens = np.asarray(dataset.tokens[start : start + size])
        if (wrong := _first((tokens < 0) | (tokens >= vocab_size))) is not None:
            where = start + wrong
            document = int(np.searchsorted(dataset.document_offsets(), where, side="right")) - 1
            yield (
                f"document {document}: token {where - dataset.document_offsets()[document]} is "
                f"{tokens[wrong]}, outside the vocabulary of {vocab_size:,}"
            )
            return


def _ends(dataset: IndexedDataset, documents: Any, eod: int, piece: str) -> Iterator[str]:
    places = dataset.document_offsets()[1:] - 1
    yield from _pieces_at(dataset, documents, places, "ends", eod, piece)


def _starts(dataset: IndexedDataset, documents: Any, bos: int, piece: str) -> Iterator[str]:
    yield from _pieces_at(dataset, documents, dataset.document_offsets()[:-1], "begins", bos, piece)


def _pieces_at(
    dataset: IndexedDataset, documents: Any, places: Any, verb: str, wanted: int, piece: str
) -> Iterator[str]:
    """Name the first of some documents whose token at its place is not the one wanted."""
    for start in range(0, len(documents), _CHUNK):
        some = np.asarray(documents[start : start + _CHUNK], dtype=np.int64)
        tokens = dataset.tokens[places[some]]
        if (wrong := _first(tokens != wanted)) is not None:
            yield f"document {some[wrong]}: {verb} with token {tokens[wrong]}, not with {wanted} ({piece})"
            return


def _first(wrong: Any) -> int | None:
    """Position of the first True."""
    position = int(np.argmax(wrong)) if len(wrong) else 0
    return position if len(wrong) and wrong[position] else None
