"""What a source yields and what a source is: a pydantic model whose fields are its options."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, ConfigDict


@dataclass(frozen=True, slots=True)
class Document:
    """One text, with the file and the 1-based record (line, row, page) it came from."""

    text: str
    file: Path
    record: int


@dataclass(frozen=True, slots=True)
class Dropped:
    """A record that is no document, and why. Every one is counted in the manifest."""

    reason: str
    file: Path
    record: int


Record = Document | Dropped


class Source(BaseModel):
    """A kind of raw corpus. The fields of a subclass are what `options:` may hold in a corpus YAML."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    reads_files: ClassVar[bool] = True

    def read(self, path: Path) -> Iterator[Record]:
        """The records of one file, in order.

        Raises `DataPrepError` naming the file and the record where the input is malformed.
        """
        raise NotImplementedError
