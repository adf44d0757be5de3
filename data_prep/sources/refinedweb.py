"""RefinedWeb (`tiiuae/falcon-refinedweb`): parquet shards whose text is `content`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data_prep.sources.records import Record, Source
from data_prep.sources.tables import read_column


class RefinedWeb(Source):
    """Parquet (or JSON lines) whose text is `content`; it takes no options."""

    def read(self, path: Path) -> Iterator[Record]:
        """One document a row."""
        yield from read_column(path, "content")
