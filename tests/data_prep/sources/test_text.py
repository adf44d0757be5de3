"""Plain text is cut into what the corpus calls a document."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from tests.data_prep.sources.reading import problems, read

PLAIN = "\ufeff段落一\r\n続き\n \n\n段落二\n"


@pytest.mark.parametrize(
    ("document", "texts"),
    [
        ("file", ["段落一\n続き\n \n\n段落二\n"]),
        ("paragraph", ["段落一\n続き", "段落二"]),
        ("line", ["段落一", "続き", "段落二"]),
    ],
)
def test_plain_text_is_cut_into_what_a_document_is(tmp_path: Path, document: str, texts: list[str]) -> None:
    (tmp_path / "a.txt").write_bytes(PLAIN.encode())
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(PLAIN.encode()))
    assert read("text", tmp_path / "a.txt", document=document)[0] == texts
    assert read("text", tmp_path / "a.txt.gz", document=document)[0] == texts


def test_text_that_is_not_utf_8_is_told_by_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("一\n二\n".encode() + "三\n".encode("shift_jis"))
    (problem,) = problems("text", tmp_path / "a.txt")
    assert "a.txt: line 3: byte 1 (0x8e) is not UTF-8" in problem
    assert read("text", tmp_path / "a.txt") == ([], {})
    assert read("text", tmp_path / "a.txt", document="line")[0] == ["一", "二"]
