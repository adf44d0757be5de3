"""Plain text files: a document is a file, a paragraph between blank lines, or a line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from data_prep.errors import DataPrepError
from data_prep.sources.files import open_decompressed
from data_prep.sources.records import Document, Record, Source


class Text(Source):
    """UTF-8 text, plain or compressed. Option `document` says what one document is."""

    document: Literal["file", "paragraph", "line"] = "file"

    def read(self, path: Path) -> Iterator[Record]:
        """The documents of a file; the record is the line a document starts on."""
        lines = _lines(path)
        if self.document == "line":
            for number, line in lines:
                if line.strip():
                    yield Document(line.rstrip("\n"), path, number)
        elif self.document == "paragraph":
            yield from _paragraphs(lines, path)
        else:
            yield Document("".join(line for _, line in lines), path, 1)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with open_decompressed(path) as stream:
        for number, line in enumerate(stream, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise DataPrepError(
                    f"{path}: line {number}: byte {error.start + 1} (0x{line[error.start]:02x}) is not "
                    "UTF-8. Convert the file to UTF-8."
                ) from None
            yield number, text[:-2] + "\n" if text.endswith("\r\n") else text


def _paragraphs(lines: Iterator[tuple[int, str]], path: Path) -> Iterator[Document]:
    paragraph: list[str] = []
    start = 0
    for number, line in lines:
        if line.strip():
            start = start if paragraph else number
            paragraph.append(line)
        elif paragraph:
            yield Document("".join(paragraph).rstrip("\n"), path, start)
            paragraph = []
    if paragraph:
        yield Document("".join(paragraph).rstrip("\n"), path, start)
