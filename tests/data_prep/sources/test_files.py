"""Files are read whatever they are compressed with, and say where they are damaged or cut short."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data_prep.errors import DataPrepError
from tests.data_prep.sources.reading import COMPRESSIONS, TEXTS, lines, problems, read


@pytest.mark.parametrize("suffix", COMPRESSIONS)
@pytest.mark.parametrize("parts", [1, 3])
def test_json_lines_are_read_whatever_they_are_compressed_with(
    tmp_path: Path, suffix: str, parts: int
) -> None:
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(COMPRESSIONS[suffix](lines("text", TEXTS)) * parts)
    assert read("jsonl", path)[0] == TEXTS * parts


@pytest.mark.parametrize("suffix", [suffix for suffix in COMPRESSIONS if suffix])
def test_the_compression_is_told_by_the_content(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "renamed.jsonl"
    path.write_bytes(COMPRESSIONS[suffix](lines("text", TEXTS)))
    assert read("jsonl", path)[0] == TEXTS


@pytest.mark.parametrize("suffix", [suffix for suffix in COMPRESSIONS if suffix])
@pytest.mark.parametrize(("source", "options"), [("jsonl", {}), ("text", {"document": "line"})])
def test_compressed_data_cut_short_anywhere_give_what_is_there_and_say_where_they_end(
    tmp_path: Path, suffix: str, source: str, options: dict[str, Any]
) -> None:
    texts = [f"{number} text" for number in range(30_000)]
    data = COMPRESSIONS[suffix](lines("text", texts))
    path = tmp_path / f"a{suffix}"
    for cut in (len(data) // 3, len(data) - 9, len(data) - 1):
        path.write_bytes(data[:cut])
        (problem,) = problems(source, path, **options)
        kept = read(source, path, **options)[0]
        assert problem.startswith(f"{path}: line {len(kept) + 1:,}: ")
        assert "cut short" in problem
        if source == "jsonl":
            assert kept == texts[: len(kept)]
    assert len(kept) > 20_000


@pytest.mark.parametrize("suffix", [suffix for suffix in COMPRESSIONS if suffix])
def test_damaged_compressed_data_are_told_and_end_the_file(tmp_path: Path, suffix: str) -> None:
    data = bytearray(COMPRESSIONS[suffix](lines("text", [f"{number} text" for number in range(3000)])))
    data[len(data) // 2] ^= 0xFF
    (tmp_path / f"a{suffix}").write_bytes(data)
    assert f"a{suffix}: line " in problems("text", tmp_path / f"a{suffix}", document="line")[-1]


@pytest.mark.parametrize("document", ["file", "line", "paragraph"])
def test_a_file_named_as_compressed_that_is_not_is_refused(tmp_path: Path, document: str) -> None:
    (tmp_path / "a.gz").write_bytes(b"text\n")
    with pytest.raises(DataPrepError, match=r"a\.gz: not gz data"):
        read("text", tmp_path / "a.gz", document=document)


def test_a_byte_order_mark_windows_line_ends_and_a_missing_last_one_are_no_text(tmp_path: Path) -> None:
    data = b'\xef\xbb\xbf{"text": "a"}\r\n{"text": "b"}\r\n\r\n{"text": "c"}'
    (tmp_path / "a.jsonl").write_bytes(data)
    assert read("jsonl", tmp_path / "a.jsonl") == (["a", "b", "c"], {"blank_line": 1})
