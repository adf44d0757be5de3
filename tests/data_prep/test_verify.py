"""Every kind of damage is found, and the document it is in is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.errors import DataPrepError
from data_prep.indexed import bin_path, idx_path
from data_prep.manifest import Manifest
from data_prep.verify import verify

DOCUMENTS = [[10, 11, 12], [20], [30, 31], [40, 41, 42, 43]]
HEADER = 34
END = 2


@pytest.fixture
def prefix(tmp_path: Path, make_corpus: Callable[..., Path]) -> Path:
    """A good corpus of four documents, each with the end token."""
    return make_corpus(tmp_path, "corpus", DOCUMENTS)


def vouch(prefix: Path) -> None:
    """Write the checksums of the files as they are into the manifest: damage from before the checksum."""
    import hashlib

    path = Manifest.path(prefix)
    manifest = json.loads(path.read_text())
    for kind, file in (("bin", bin_path(prefix)), ("idx", idx_path(prefix))):
        data = file.read_bytes()
        manifest["outputs"][kind] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    path.write_text(json.dumps(manifest))


def change_token(prefix: Path, position: int, token: int) -> None:
    tokens = np.fromfile(bin_path(prefix), dtype=np.uint16)
    tokens[position] = token
    bin_path(prefix).write_bytes(tokens.tobytes())


def change_index(prefix: Path, offset: int, dtype: str, value: int) -> None:
    data = bytearray(idx_path(prefix).read_bytes())
    size = np.dtype(dtype).itemsize
    data[HEADER + offset : HEADER + offset + size] = np.array(value, dtype=dtype).tobytes()
    idx_path(prefix).write_bytes(data)


def test_a_quick_look_finds_what_is_cut_off_swapped_or_of_another_build_and_not_a_changed_byte(
    prefix: Path, tmp_path: Path, make_corpus: Callable[..., Path]
) -> None:
    assert verify(prefix, quick=True).ok
    whole = bin_path(prefix).read_bytes()
    change_token(prefix, 1, 13)
    assert verify(prefix, quick=True).ok
    assert not verify(prefix).ok
    change_token(prefix, 3, 13)
    assert verify(prefix, quick=True).problems == ["document 0: ends with token 13, not with 2 (</s>)"]
    bin_path(prefix).write_bytes(whole[:-2])
    assert "bytes, the manifest says" in verify(prefix, quick=True).problems[0]
    bin_path(prefix).write_bytes(whole)
    other = make_corpus(tmp_path, "other", list(reversed(DOCUMENTS)))
    idx_path(prefix).write_bytes(idx_path(other).read_bytes())
    assert "its sha256 is not the manifest's" in verify(prefix, quick=True).problems[0]


def test_a_quick_look_at_a_long_corpus_takes_a_sample_that_reaches_both_ends(
    tmp_path: Path, make_corpus: Callable[..., Path]
) -> None:
    prefix = make_corpus(tmp_path, "long", [[10, 11]] * 1000)
    assert verify(prefix, quick=True).ok
    tokens = len(bin_path(prefix).read_bytes()) // 2
    for place, document in ((2, 0), (tokens - 1, 999)):
        whole = bin_path(prefix).read_bytes()
        change_token(prefix, place, 13)
        assert verify(prefix, quick=True).problems == [
            f"document {document}: ends with token 13, not with 2 (</s>)"
        ]
        bin_path(prefix).write_bytes(whole)


def test_a_good_corpus_is_good(prefix: Path) -> None:
    told: list[str] = []
    report = verify(prefix, progress=told.append)
    assert (report.ok, report.problems) == (True, [])
    assert (report.documents, report.tokens) == (4, 14)
    assert told == ["checksum of corpus.bin", "checksum of corpus.idx", "index", "tokens", "document ends"]


@pytest.mark.parametrize("suffix", [".bin", ".idx"])
def test_a_changed_byte_anywhere_is_found(prefix: Path, suffix: str) -> None:
    path = prefix.with_name(prefix.name + suffix)
    whole = path.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        problems = verify(prefix).problems
        assert any(f"corpus{suffix}: its sha256" in problem for problem in problems), position


@pytest.mark.parametrize(
    ("position", "token", "problem"),
    [
        (5, 400, "document 1: token 1 is 400, outside the vocabulary of 400"),
        (13, 65535, "document 3: token 4 is 65535, outside the vocabulary of 400"),
        (5, 7, "document 1: ends with token 7, not with 2 (</s>)"),
        (13, 7, "document 3: ends with token 7, not with 2 (</s>)"),
    ],
)
def test_a_wrong_token_is_found_even_where_the_checksums_vouch_for_it(
    prefix: Path, position: int, token: int, problem: str
) -> None:
    change_token(prefix, position, token)
    vouch(prefix)
    assert problem in verify(prefix).problems


@pytest.mark.parametrize(
    ("offset", "dtype", "value", "problem"),
    [
        (4, "<i4", -1, "sequence 1: a negative length, -1"),
        (4, "<i4", 3, "sequence 2: starts at byte 12, its place is byte 14"),
        (16 + 8, "<i8", 4, "sequence 1: starts at byte 4, its place is byte 8"),
        (16 + 32 + 8, "<i8", 3, "document 1: ends before it starts (sequences 3 to 2)"),
        (16 + 32 + 8, "<i8", 2, "document 1: has no tokens"),
    ],
)
def test_an_index_that_contradicts_itself_is_found(
    prefix: Path, offset: int, dtype: str, value: int, problem: str
) -> None:
    change_index(prefix, offset, dtype, value)
    vouch(prefix)
    assert problem in verify(prefix).problems


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        (("counts", "documents"), 5, "4 documents, the manifest says 5"),
        (("counts", "tokens"), 15, "14 tokens, the manifest says 15"),
        (("dtype",), "int32", "the ids are uint16, the manifest says int32"),
        (("outputs", "bin", "bytes"), 30, "corpus.bin: 28 bytes, the manifest says 30"),
        (("eod", "id"), 7, "document 0: ends with token 2, not with 7 (</s>)"),
    ],
)
def test_a_manifest_that_says_something_else_is_found(
    prefix: Path, field: tuple[str, ...], value: Any, problem: str
) -> None:
    path = Manifest.path(prefix)
    manifest = json.loads(path.read_text())
    part = manifest
    for key in field[:-1]:
        part = part[key]
    part[field[-1]] = value
    path.write_text(json.dumps(manifest))
    assert verify(prefix).problems == [problem]


@pytest.mark.parametrize("suffix", [".bin", ".idx"])
@pytest.mark.parametrize("keep", [None, 0, -1])
def test_a_file_that_is_missing_or_cut_short_is_found(prefix: Path, suffix: str, keep: int | None) -> None:
    path = prefix.with_name(prefix.name + suffix)
    data = path.read_bytes()
    path.unlink()
    if keep is not None:
        path.write_bytes(data[:keep])
    problems = verify(prefix).problems
    assert problems[0].startswith(f"corpus{suffix}: ")
    assert len(problems) == 2  # the manifest's view, and the reader's


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "the manifest cannot be read"),
        ("{", "not valid JSON"),
        ("[]", "manifest format None"),
        ('{"format_version": 9}', "manifest format 9, and this version reads 1"),
        ('{"format_version": 1}', "name: Field required"),
    ],
)
def test_a_manifest_that_is_none_is_an_error(prefix: Path, text: str | None, message: str) -> None:
    path = Manifest.path(prefix)
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataPrepError, match=rf"corpus\.manifest\.json: {message}"):
        verify(prefix)
