"""A file read range by range, or from any block on, is the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from data_prep.sources import Document, open_source
from data_prep.sources.records import Malformed
from tests.data_prep.sources.reading import COMPRESSIONS, lines


def _numbered(path: Path, count: int) -> list[str]:
    texts = [f"{number} " + "あ" * (number * 7919 % 400) for number in range(count)]
    path.write_bytes(lines("text", texts))
    return texts


def _by_ranges(path: Path, target: int) -> list[Any]:
    source = open_source("jsonl", {})
    found = []
    for part in source.ranges(path, target):
        for block in source.blocks(path, part):
            assert not isinstance(block, Malformed)
            found += source.records(path, block)
    return found


@pytest.mark.parametrize("target", [1, 97, 5000, 300_000, 1 << 40])
def test_a_plain_file_read_by_ranges_is_the_file(tmp_path: Path, target: int) -> None:
    texts = _numbered(tmp_path / "a.jsonl", 600 if target < 5000 else 3000)
    assert [record.text for record in _by_ranges(tmp_path / "a.jsonl", max(target, 40))] == texts


def test_a_parquet_file_read_by_ranges_is_the_file(tmp_path: Path) -> None:
    texts = [f"{number} text" for number in range(1000)]
    parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "a.parquet", row_group_size=70)
    source = open_source("parquet", {})
    parts = source.ranges(tmp_path / "a.parquet", (tmp_path / "a.parquet").stat().st_size // 6)
    assert len(parts) > 3
    blocks = [(part, block) for part in parts for block in source.blocks(tmp_path / "a.parquet", part)]
    records = [
        record
        for _, block in blocks
        if not isinstance(block, Malformed)
        for record in source.records(Path("a"), block)
    ]
    assert [record.text for record in records if isinstance(record, Document)] == texts
    assert [record.record for record in records] == list(range(1, 1001))


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_reading_goes_on_behind_any_block(tmp_path: Path, name: str) -> None:
    texts = [f"{number} " + "い" * 3000 for number in range(1200)]
    path = tmp_path / name
    if name.endswith("parquet"):
        parquet.write_table(pyarrow.table({"text": texts}), path, row_group_size=500)
    else:
        path.write_bytes(COMPRESSIONS[name.removeprefix("a.jsonl")](lines("text", texts)))
    source = open_source("jsonl", {})
    (part,) = source.ranges(path, 1 << 40)
    blocks = list(source.blocks(path, part))
    assert len(blocks) > 3
    for number, block in enumerate(blocks):
        assert not isinstance(block, Malformed)
        rest = [one for one in source.blocks(path, part, block.end) if not isinstance(one, Malformed)]
        assert [one.start for one in rest] == [one.start for one in blocks[number + 1 :]]  # type: ignore[union-attr]
        assert [record for one in rest for record in source.records(path, one)] == [
            record
            for one in blocks[number + 1 :]
            for record in source.records(path, one)  # type: ignore[arg-type]
        ]


def test_lines_of_a_range_have_their_numbers_in_the_file(tmp_path: Path) -> None:
    data = b"".join(b'{"text": "%d"}\n' % number if number % 10 else b"{\n" for number in range(1, 500))
    (tmp_path / "a.jsonl").write_bytes(data)
    wrong = [
        record.record for record in _by_ranges(tmp_path / "a.jsonl", 700) if isinstance(record, Malformed)
    ]
    assert wrong == list(range(10, 500, 10))
