"""Plain text files: a document is a file, a paragraph between blank lines, or a line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from data_prep.sources.lines import (
    Lines,
    after_last_line,
    after_last_paragraph,
    line_blocks,
    line_number,
    numbered_lines,
    split_lines,
)
from data_prep.sources.records import Block, Document, Malformed, Place, Range, Record, Source


class Text(Source):
    """UTF-8 text, plain or compressed. Option `document` says what one document is."""

    document: Literal["file", "paragraph", "line"] = "file"

    def ranges(self, path: Path, target_bytes: int) -> list[Range]:
        """Bytes of a plain file of lines; otherwise the file."""
        return split_lines(path, target_bytes) if self.document == "line" else [Range()]

    def blocks(self, path: Path, part: Range, after: Place | None = None) -> Iterator[Block | Malformed]:
        """Whole documents."""
        if self.document == "file":
            return _whole_file(path, after)
        cut = after_last_line if self.document == "line" else after_last_paragraph
        return line_blocks(path, part, after, cut)

    def records(self, path: Path, block: Block) -> Iterator[Record]:
        """The documents of a block; the record is the line a document starts on."""
        if self.document == "file":
            yield from _file(path, block)
        elif self.document == "line":
            for number, line in _lines(path, block):
                if isinstance(line, Malformed):
                    yield line
                elif line.strip():
                    yield Document(line, path, number)
        else:
            yield from _paragraphs(path, block)


def _whole_file(path: Path, after: Place | None) -> Iterator[Block | Malformed]:
    parts = [] if after else list(line_blocks(path, Range(), None))
    blocks = [part for part in parts if isinstance(part, Block)]
    if blocks or not parts:
        data = b"".join(block.payload.data for block in blocks)
        if after is None:
            end = blocks[-1].end if blocks else Place()
            yield Block(Lines(data, 0), Place(), end, path.stat().st_size)
    yield from (part for part in parts if isinstance(part, Malformed))


def _file(path: Path, block: Block) -> Iterator[Record]:
    lines = []
    for _, line in _lines(path, block):
        if isinstance(line, Malformed):
            # Half a document is none.
            yield line
            return
        lines.append(line)
    ends = block.payload.data.endswith(b"\n")
    yield Document("\n".join(lines) + ("\n" if ends else ""), path, 1)


def _lines(path: Path, block: Block) -> Iterator[tuple[int, str | Malformed]]:
    for number, row in numbered_lines(block):
        try:
            yield number, row.removesuffix(b"\r").decode()
        except UnicodeDecodeError as error:
            problem = (
                f"byte {error.start + 1} (0x{row[error.start]:02x}) is not UTF-8. Convert the file to UTF-8."
            )
            yield number, Malformed("not_utf8", path, line_number(path, block.payload.base, number), problem)


def _paragraphs(path: Path, block: Block) -> Iterator[Record]:
    paragraph: list[str] = []
    start = 0
    for number, line in _lines(path, block):
        if isinstance(line, Malformed):
            yield line
        elif line.strip():
            start = start if paragraph else number
            paragraph.append(line)
        elif paragraph:
            yield Document("\n".join(paragraph), path, start)
            paragraph = []
    if paragraph:
        yield Document("\n".join(paragraph), path, start)
