"""What a source is, and what it yields.

Reading is cut in two. `blocks` goes through a file in order and does no more than it must: decompress,
cut at line ends. `records` turns one block into texts; it holds no state, so that threads can share the
work. `ranges` names the parts of a file that can be read without the parts before them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict


@dataclass(frozen=True, slots=True)
class Document:
    """One text, with the file and the 1-based record (line, row, page) it came from.

    `labels` are (kind, value) pairs whose documents the manifest counts, such as ("licence", "MIT").
    """

    text: str
    file: Path
    record: int
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Dropped:
    """A record that is no document, and why. Every one is counted in the manifest."""

    reason: str
    file: Path
    record: int


@dataclass(frozen=True, slots=True)
class Malformed:
    """Input that cannot be read: what is wrong with it, and how many records it stands for.

    `reason` is the name it is counted under, `problem` a sentence for people. `unit` is what `record` counts.
    """

    reason: str
    file: Path
    record: int
    problem: str
    unit: str = "line"
    records: int = 1

    def __str__(self) -> str:
        return f"{self.file}: {self.unit} {self.record:,}: {self.problem}"


Record = Document | Dropped | Malformed


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a file: a position in the unit of the source, and the number of records before it."""

    position: int = 0
    records: int = 0


@dataclass(frozen=True, slots=True)
class Range:
    """A part of a file that can be read by itself: positions from `start` up to `end` (None: the file's end)."""

    start: int = 0
    end: int | None = None


@dataclass(frozen=True, slots=True)
class Block:
    """Some records in a row, not yet parsed.

    - `payload`: what the source's own `records` takes
    - `start`: where the block starts; its first record is number `start.records + 1`
    - `end`: the place behind it, from which `blocks` can go on
    - `file_bytes`: how far the file on the disk has been read behind this block, for the progress shown
    """

    payload: Any
    start: Place
    end: Place
    file_bytes: int


class Source(BaseModel):
    """A kind of raw corpus. The fields of a subclass are what `options:` may hold in a corpus YAML."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    reads_files: ClassVar[bool] = True

    def ranges(self, path: Path, target_bytes: int) -> list[Range]:
        """The ranges of a file, in order, that can be read apart, each of about `target_bytes` on the disk.

        One range where the format cannot be entered in the middle, such as gzip.
        Raises `DataPrepError` where the file is not of the source's format.
        """
        return [Range()]

    def blocks(self, path: Path, part: Range, after: Place | None = None) -> Iterator[Block | Malformed]:
        """The blocks of one range in order, from `after` on where it is given (the `end` of an earlier block).

        Cutting does not depend on where it starts: the blocks after a place are the same ones.
        Damage that ends the reading (a stream cut short) is the last thing yielded.
        Raises `DataPrepError` where the file cannot be read at all.
        """
        raise NotImplementedError

    def records(self, path: Path, block: Block) -> Iterator[Record]:
        """The records of one block, in order. Threads call it side by side."""
        raise NotImplementedError

    def read(self, path: Path) -> Iterator[Record]:
        """Every record of a file, in order."""
        for part in self.ranges(path, 1 << 40):
            for block in self.blocks(path, part):
                if isinstance(block, Malformed):
                    yield block
                else:
                    yield from self.records(path, block)
