"""The Stack: every file is kept unless a filter leaves it out, which is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from data_prep.sources import open_source
from tests.data_prep.sources.reading import problems, read

STACK = [
    # lang, ext, max_line_length, avg_line_length, alphanum_fraction, content
    ("Python", "py", 80, 30.0, 0.7, "good"),
    ("Jupyter Notebook", "ipynb", 80, 30.0, 0.7, "notebook"),
    ("Python", "pyx", 80, 30.0, 0.7, "cython"),
    ("Python", "py", 1000, 100.0, 0.25, "at every limit"),
    ("Python", "py", 1001, 30.0, 0.7, "a long line"),
    ("Python", "py", 80, 100.5, 0.7, "long lines"),
    ("Python", "py", 80, 30.0, 0.24, "signs"),
    ("C++", "cpp", 5000, 900.0, 0.0, "everything"),
]


STACK_COLUMNS = ("lang", "ext", "max_line_length", "avg_line_length", "alphanum_fraction", "content")


@pytest.fixture(params=["parquet", "jsonl"])
def stack(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Rows of The Stack, one for each filter."""
    rows = [dict(zip(STACK_COLUMNS, row, strict=True)) for row in STACK]
    path = tmp_path / f"stack.{request.param}"
    if request.param == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_stack_keeps_everything_unless_asked(stack: Path) -> None:
    assert read("the_stack", stack) == ([row[-1] for row in STACK], {})


@pytest.mark.parametrize(
    ("options", "left_out", "reason"),
    [
        ({"languages": ["python"]}, ["notebook", "everything"], "language"),
        ({"languages": ["C++", "Jupyter Notebook", "PYTHON"]}, [], "language"),
        ({"extensions": [".py", "cpp"]}, ["notebook", "cython"], "extension"),
        ({"max_line_length": 1000}, ["a long line", "everything"], "max_line_length"),
        ({"avg_line_length": 100.0}, ["long lines", "everything"], "avg_line_length"),
        ({"alphanum_fraction": 0.25}, ["signs", "everything"], "alphanum_fraction"),
    ],
)
def test_each_filter_of_the_stack_is_counted(
    stack: Path, options: dict[str, Any], left_out: list[str], reason: str
) -> None:
    texts, dropped = read("the_stack", stack, **options)
    assert texts == [row[-1] for row in STACK if row[-1] not in left_out]
    assert dropped == ({reason: len(left_out)} if left_out else {})


def test_a_file_that_fails_several_filters_is_counted_once(stack: Path) -> None:
    texts, dropped = read(
        "the_stack",
        stack,
        languages=["Python", "C++"],
        extensions=["py", "cpp"],
        max_line_length=1000,
        avg_line_length=100,
        alphanum_fraction=0.25,
    )
    assert texts == ["good", "at every limit"]
    assert dropped == {
        **{"language": 1, "extension": 1, "max_line_length": 2},
        **{"avg_line_length": 1, "alphanum_fraction": 1},
    }


def test_a_filter_without_its_column_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"content": "x", "max_line_length": null}\n')
    assert read("the_stack", tmp_path / "a.jsonl")[0] == ["x"]
    assert "line 1: no 'lang'" in problems("the_stack", tmp_path / "a.jsonl", languages=["Python"])[0]
    assert (
        "record 1: 'max_line_length' is None, not a number"
        in problems("the_stack", tmp_path / "a.jsonl", max_line_length=9)[0]
    )


def test_the_licences_of_the_stack_are_labels(tmp_path: Path) -> None:
    rows = [{"content": "a", "max_stars_repo_licenses": ["MIT", "Apache-2.0"]}, {"content": "b"}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    labels = [record.labels for record in open_source("the_stack", {}).read(tmp_path / "a.parquet")]  # type: ignore[union-attr]
    assert labels == [(("licence", "MIT"), ("licence", "Apache-2.0")), ()]


@pytest.mark.parametrize("options", [{"languages": []}, {"alphanum_fraction": 25.0}, {"max_line_length": 0}])
def test_an_impossible_filter_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))}: "):
        open_source("the_stack", options)
