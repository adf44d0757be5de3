"""The two general table sources, `jsonl` and `parquet`: any file with a text in one column."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data_prep.sources.records import Record, Source
from data_prep.sources.tables import read_column


class Jsonl(Source):
    """JSON lines, plain or compressed with gzip, zstd, bzip2 or xz. Option `text_key` names the text."""

    text_key: str = "text"

    def read(self, path: Path) -> Iterator[Record]:
        """One document a line."""
        yield from read_column(path, self.text_key)


class Parquet(Source):
    """Parquet files. Option `column` names the text."""

    column: str = "text"

    def read(self, path: Path) -> Iterator[Record]:
        """One document a row."""
        yield from read_column(path, self.column)
