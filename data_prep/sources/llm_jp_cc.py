"""LLM-jp corpus v2, Japanese CommonCrawl: `{"text": ..., "meta": {...}}` lines, one gzip file per dump."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data_prep.sources.records import Record, Source
from data_prep.sources.tables import read_column


class LlmJpCc(Source):
    """JSON lines (or parquet) whose text is `text`; it takes no options."""

    def read(self, path: Path) -> Iterator[Record]:
        """One document a line."""
        yield from read_column(path, "text")
