"""The two general table sources, `jsonl` and `parquet`: any file with a text in one column."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data_prep.sources.records import Block, Malformed, Place, Range, Record, Source
from data_prep.sources.tables import read_column, split_table, table_blocks


class TableSource(Source):
    """A source whose text is one column of JSON lines or parquet."""

    def text_column(self) -> str:
        """The name of the column."""
        raise NotImplementedError

    def ranges(self, path: Path, target_bytes: int) -> list[Range]:
        """Bytes of plain JSON lines, row groups of parquet; a compressed file is one range."""
        return split_table(path, target_bytes)

    def blocks(self, path: Path, part: Range, after: Place | None = None) -> Iterator[Block | Malformed]:
        """Whole lines, or batches of rows."""
        return table_blocks(path, part, after, [self.text_column()])

    def records(self, path: Path, block: Block) -> Iterator[Record]:
        """One document a line or row."""
        return read_column(path, block, self.text_column())


class Jsonl(TableSource):
    """JSON lines, plain or compressed with gzip, zstd, bzip2 or xz. Option `text_key` names the text."""

    text_key: str = "text"

    def text_column(self) -> str:
        """The option `text_key`."""
        return self.text_key


class Parquet(TableSource):
    """Parquet files. Option `column` names the text."""

    column: str = "text"

    def text_column(self) -> str:
        """The option `column`."""
        return self.column
