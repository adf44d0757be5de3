"""Blocks of whole lines (or paragraphs) of a file, whatever it is compressed with."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from data_prep.sources.files import DamagedDataError, compression, open_counted
from data_prep.sources.records import Block, Malformed, Place, Range

BLOCK_BYTES = 1 << 21
LONGEST_LINE = 1 << 28
"""Bytes of a line that are still held in memory; a file without line ends must not fill it."""

_PIECE = 1 << 20
_PARAGRAPH_END = re.compile(rb"\n[ \t\r]*\n")
# Where the last item that is whole within the first so many bytes of a buffer ends, or 0.
Cutter = Callable[[bytearray, int], int]


@dataclass(frozen=True, slots=True)
class Lines:
    """Whole lines. `base` is the byte the numbering of the range starts at."""

    data: bytes
    base: int


def after_last_line(buffer: bytearray, size: int) -> int:
    """The end of the last whole line in the first `size` bytes."""
    return int(buffer.rfind(b"\n", 0, size)) + 1


def after_last_paragraph(buffer: bytearray, size: int) -> int:
    """The end of the last whole paragraph in the first `size` bytes: after a line that is blank."""
    end = 0
    for match in _PARAGRAPH_END.finditer(buffer, 0, size):
        end = match.end()
    return end


def split_lines(path: Path, target_bytes: int) -> list[Range]:
    """Ranges of a plain file; a compressed one cannot be entered in the middle."""
    if compression(path) is not None:
        return [Range()]
    size = path.stat().st_size
    # A last range of a few bytes is not worth a task.
    count = max(1, round(size / target_bytes))
    bounds = [size * number // count for number in range(count)]
    return [Range(start, end) for start, end in zip(bounds, [*bounds[1:], None], strict=True)]


def lines_in(data: bytes) -> int:
    """How many lines, the last one whole or not."""
    return data.count(b"\n") + (not data.endswith(b"\n"))


def line_blocks(
    path: Path,
    part: Range,
    after: Place | None,
    cut: Cutter = after_last_line,
    count: Callable[[bytes], int] = lines_in,
) -> Iterator[Block | Malformed]:
    """Blocks of about 2 MiB of the lines that start inside the range; positions are decompressed bytes.

    `count` tells how many records (lines) some bytes hold. A stream that is cut short or damaged ends with a `Malformed`.
    """
    place = after or Place(part.start)
    with open_counted(path) as (stream, file_position):
        try:
            if after is None and part.start:
                place = Place(_line_start(stream, part.start))
            else:
                _skip(stream, place.position)
            for block in _cut(stream, place, part, cut, count, path, file_position):
                place = block.end if isinstance(block, Block) else place
                yield block
        except (EOFError, DamagedDataError) as error:
            yield _damage(error, path, place, part)


def numbered_lines(block: Block) -> Iterator[tuple[int, bytes]]:
    """The lines of a block without their ends, numbered as records are; the file's byte-order mark is no text."""
    data: bytes = block.payload.data
    if block.start.position == 0:
        data = data.removeprefix(b"\xef\xbb\xbf")
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    return enumerate(lines, start=block.start.records + 1)


def line_number(path: Path, base: int, number: int) -> int:
    """The number of a line in its file, from its number in a range that starts at byte `base`."""
    return number + _lines_before(path, base)


@functools.lru_cache(maxsize=64)
def _lines_before(path: Path, base: int) -> int:
    # Asked only for a line that is reported, so that no range has to read what stands before it.
    lines, left, ends_line = 0, base, True
    with path.open("rb") as stream:
        while left > 0 and (piece := stream.read(min(left, _PIECE))):
            lines += piece.count(b"\n")
            left -= len(piece)
            ends_line = piece.endswith(b"\n")
    # A line that runs across the base belongs to the range before.
    return lines if ends_line else lines + 1


def _cut(
    stream: BinaryIO,
    place: Place,
    part: Range,
    cut: Cutter,
    count: Callable[[bytes], int],
    path: Path,
    file_position: Callable[[], int],
) -> Iterator[Block | Malformed]:
    buffer, wanted, ended = bytearray(), BLOCK_BYTES, False
    damage: Exception | None = None
    while part.end is None or place.position < part.end:
        while len(buffer) < wanted and not ended:
            try:
                piece = stream.read1(_PIECE)  # type: ignore[attr-defined]
            except (EOFError, DamagedDataError) as error:
                damage, piece = error, b""
            ended = not piece
            buffer += piece
        past_range = part.end is not None and place.position + len(buffer) >= part.end
        size = _end_of_range(buffer, part.end - place.position) if past_range and part.end else 0
        rest = False
        if not size:
            # By the bytes asked for and not by those that came: blocks are the same wherever reading began.
            rest = ended and damage is None and len(buffer) <= wanted
            size = len(buffer) if rest else cut(buffer, min(wanted, len(buffer)))
            if past_range and not ended:
                size = 0
        if size:
            data = bytes(memoryview(buffer)[:size])
            del buffer[:size]
            end = Place(place.position + size, place.records + count(data))
            yield Block(Lines(data, part.start), place, end, file_position())
            place, wanted = end, BLOCK_BYTES
            if rest:
                return
            continue
        if len(buffer) <= wanted and damage is not None:
            raise damage
        if ended and not buffer:
            return
        if len(buffer) >= LONGEST_LINE:
            skipped = _skip_line(stream, buffer)
            number = line_number(path, part.start, place.records + 1)
            yield Malformed(
                "line_too_long",
                path,
                number,
                f"a line of more than {LONGEST_LINE >> 20} MiB. Split it, or remove it.",
            )
            place, wanted = Place(place.position + skipped, place.records + 1), BLOCK_BYTES
            continue
        # Twice as much before it is searched again: a long line is searched in linear time.
        wanted = len(buffer) * 2


def _end_of_range(buffer: bytearray, size: int) -> int:
    """Bytes up to the end of the line that holds the range's last byte, or 0 where the buffer ends before it."""
    return int(buffer.find(b"\n", size - 1)) + 1


def _skip_line(stream: BinaryIO, buffer: bytearray) -> int:
    """Drop bytes up to the next line end, which is not in the buffer yet; their number."""
    skipped = 0
    while True:
        skipped += len(buffer)
        buffer.clear()
        piece: bytes = stream.read1(_PIECE)  # type: ignore[attr-defined]
        if not piece:
            return skipped
        if (end := piece.find(b"\n") + 1) > 0:
            buffer += piece[end:]
            return skipped + end
        buffer += piece


def _line_start(stream: BinaryIO, start: int) -> int:
    """Go to the first line that starts at `start` or after it (a plain file); its position."""
    stream.seek(start - 1)
    position = start - 1
    while piece := stream.readline(_PIECE):
        position += len(piece)
        if piece.endswith(b"\n"):
            break
    return position


def _skip(stream: BinaryIO, size: int) -> None:
    if stream.seekable():  # a plain file
        stream.seek(size)
        return
    while size > 0 and (piece := stream.read1(min(size, _PIECE))):  # type: ignore[attr-defined]
        size -= len(piece)


def _damage(error: Exception, path: Path, place: Place, part: Range) -> Malformed:
    number = line_number(path, part.start, place.records + 1) if part.start else place.records + 1
    if isinstance(error, EOFError):
        reason, what = "truncated", "the compressed data end here; the file was cut short"
    else:
        reason, what = "damaged", f"damaged compressed data ({error}); what follows cannot be read"
    return Malformed(reason, path, number, f"{what}. Download or copy it again.")
