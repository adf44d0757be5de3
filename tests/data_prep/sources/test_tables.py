"""Tables give every row's text, and say which rows have none."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from data_prep.errors import DataPrepError
from data_prep.sources import open_source
from data_prep.sources.records import Malformed
from tests.data_prep.sources.reading import TEXTS, lines, problems, read


@pytest.mark.parametrize(("source", "column"), [("llm_jp_cc", "text"), ("refinedweb", "content")])
def test_the_true_sources_know_their_column(tmp_path: Path, source: str, column: str) -> None:
    rows = {"url": ["u"] * 4, column: TEXTS, "image_urls": [[["a", "b"]]] * 4}
    parquet.write_table(pyarrow.table(rows), tmp_path / "a.parquet", row_group_size=2)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines(column, TEXTS)))
    assert read(source, tmp_path / "a.parquet")[0] == TEXTS
    assert read(source, tmp_path / "a.jsonl.gz")[0] == TEXTS
    with pytest.raises(ValueError, match="has no such option; it takes no options"):
        open_source(source, {"column": "body"})


@pytest.mark.parametrize("type_name", ["string", "large_string"])
def test_a_column_of_parquet_is_read(tmp_path: Path, type_name: str) -> None:
    column = pyarrow.array(TEXTS * 200, type=getattr(pyarrow, type_name)())
    parquet.write_table(pyarrow.table({"body": column}), tmp_path / "a", compression="zstd")
    assert read("parquet", tmp_path / "a", column="body")[0] == TEXTS * 200


def _table(values: Any) -> pyarrow.Table:
    return pyarrow.table({"text": values, "title": ["t"] * len(values)})


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (_table(["a", None]), "record 2: 'text' is null, not a text"),
        (_table([1, 2]), "record 1: 'text' is a number, not a text"),
        (_table([b"a"]), "record 1: 'text' is bytes, not a text"),
        (
            _table(["a"]).rename_columns(["texts", "title"]),
            "no 'text'; there is 'texts', 'title'. Did you mean",
        ),
        (
            _table(pyarrow.array([b"a", b"b\xff"]).view(pyarrow.string())),
            "row 2: a text that is not UTF-8",
        ),
    ],
)
def test_rows_without_a_text_are_told_one_by_one(tmp_path: Path, table: pyarrow.Table, message: str) -> None:
    parquet.write_table(table, tmp_path / "a.parquet")
    assert message in problems("parquet", tmp_path / "a.parquet")[0]


def test_a_table_without_the_column_counts_for_all_its_rows(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"txt": ["a"] * 7}), tmp_path / "a.parquet")
    (problem,) = open_source("parquet", {}).read(tmp_path / "a.parquet")
    assert isinstance(problem, Malformed)
    assert (problem.reason, problem.records) == ("missing_column", 7)


@pytest.mark.parametrize("cut", [0, 3, 200, -1])
def test_a_parquet_file_cut_short_is_refused(tmp_path: Path, cut: int) -> None:
    parquet.write_table(_table(["a" * 100] * 50), tmp_path / "a.parquet")
    data = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(data[:cut])
    with pytest.raises(DataPrepError, match=r"a\.parquet: not a readable parquet file"):
        read("parquet", tmp_path / "a.parquet")


def test_damage_inside_a_parquet_file_counts_for_the_rows_behind_it(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(_table([f"{number} text" for number in range(5000)]), path, compression="zstd")
    data = bytearray(path.read_bytes())
    for position in range(100, len(data) // 2, 50):
        data[position] ^= 0xFF
    path.write_bytes(data)
    *kept, problem = open_source("parquet", {}).read(path)
    assert isinstance(problem, Malformed)
    assert problem.reason == "damaged"
    assert len(kept) + problem.records == 5000
