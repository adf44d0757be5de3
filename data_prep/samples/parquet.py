"""Parquet shards with the columns of RefinedWeb and of The Stack."""

from __future__ import annotations

import hashlib
import io
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from data_prep.samples.stdlib import Prose, PythonFile
from data_prep.whole_files import write_whole

_CRAWLED = datetime(2023, 2, 1)


def write_refinedweb(folder: Path, texts: list[Prose]) -> None:
    """Two shards of English prose, named as the data set's."""
    import pyarrow as pa

    schema = pa.schema(
        [
            ("content", pa.string()),
            ("url", pa.string()),
            ("timestamp", pa.timestamp("ms")),
            ("dump", pa.string()),
            ("segment", pa.string()),
            ("image_urls", pa.list_(pa.list_(pa.string()))),
        ]
    )
    rows = [
        {
            "content": text.text,
            "url": f"https://docs.example.org/{text.name}.html",
            "timestamp": _CRAWLED + timedelta(minutes=number),
            "dump": "CC-MAIN-2023-06",
            "segment": f"1674764499{number % 10}",
            "image_urls": [],
        }
        for number, text in enumerate(texts)
    ]
    half = (len(rows) + 1) // 2
    for shard, part in enumerate((rows[:half], rows[half:])):
        _write(folder / f"train-{shard:05d}-of-00002.parquet", part, schema)


def write_the_stack(folder: Path, files: list[PythonFile]) -> None:
    """One shard of Python code with every column of the data set."""
    import pyarrow as pa

    columns: list[tuple[str, Any]] = [
        ("hexsha", pa.string()),
        ("size", pa.int64()),
        ("ext", pa.string()),
        ("lang", pa.string()),
    ]
    for what in ("stars", "issues", "forks"):
        repo = f"max_{what}_repo"
        columns += [
            (f"{repo}_path", pa.string()),
            (f"{repo}_name", pa.string()),
            (f"{repo}_head_hexsha", pa.string()),
            (f"{repo}_licenses", pa.list_(pa.string())),
            (f"max_{what}_count", pa.int64()),
            (f"{repo}_{what}_event_min_datetime", pa.string()),
            (f"{repo}_{what}_event_max_datetime", pa.string()),
        ]
    columns += [
        ("content", pa.string()),
        ("avg_line_length", pa.float64()),
        ("max_line_length", pa.int64()),
        ("alphanum_fraction", pa.float64()),
    ]
    directory = folder / "data" / "python"
    directory.mkdir(parents=True, exist_ok=True)
    rows = [_stack_row(file) for file in files]
    _write(directory / "train-00000-of-00001.parquet", rows, pa.schema(columns))


def _stack_row(file: PythonFile) -> dict[str, Any]:
    """A row; the columns it does not name are null, as they often are in the data set."""
    lines = file.code.split("\n")
    sha = hashlib.sha1(file.code.encode(), usedforsecurity=False).hexdigest()
    row: dict[str, Any] = {
        "hexsha": sha,
        "size": len(file.code.encode()),
        "ext": "py",
        "lang": "Python",
        "content": file.code,
        "avg_line_length": sum(map(len, lines)) / len(lines),
        "max_line_length": max(map(len, lines)),
        "alphanum_fraction": sum(map(str.isalnum, file.code)) / max(1, len(file.code)),
    }
    for what in ("stars", "issues", "forks"):
        row[f"max_{what}_repo_path"] = file.path
        row[f"max_{what}_repo_name"] = "python/library"
        row[f"max_{what}_repo_licenses"] = ["PSF-2.0"]
    return row


def _write(path: Path, rows: list[dict[str, Any]], schema: Any) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    # Several row groups, as in files of true size.
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), buffer, row_group_size=100)
    write_whole(path, buffer.getvalue())
