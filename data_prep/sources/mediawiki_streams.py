"""Multistream dumps: a row of bz2 streams of a hundred pages each, behind one that holds the head alone."""

from __future__ import annotations

import bz2
import functools
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from data_prep.sources.files import compression
from data_prep.sources.lines import BLOCK_BYTES, Lines
from data_prep.sources.records import Block, Malformed, Place, Range

# In XML neither can stand inside a text: there `<` is written `&lt;`.
PAGE_START = b"<page"
PAGE_END = b"</page>"
DUMP_END = b"</mediawiki>"
AGAIN = "Download it again and compare its checksum."

_CHUNK = 1 << 16
_PIECE = 1 << 20
# That of a Wikipedia, with all its namespaces, takes ten kilobytes.
_LONGEST_HEAD = 1 << 18
# Decompressed bytes. A stream of a hundred pages is a few MiB; one that is longer is not held in memory.
_LONGEST_STREAM = 1 << 28
_BLOCK_MAGIC = b"\x31\x41\x59\x26\x53\x59"
# Compressed bytes that hold a whole bz2 block of 900 kB, whatever is in it.
_LONGEST_BLOCK = 1 << 20
# Pages that a stream holds, for the count of what is lost with it.
_PAGES = 100


class _BrokenError(Exception):
    """A stream that cannot be read to its end, with what came before the damage."""

    def __init__(self, problem: str, text: bytes, cut_short: bool = False) -> None:
        super().__init__(problem)
        self.text = text
        self.cut_short = cut_short


def is_multistream(path: Path) -> bool:
    """Whether a dump can be entered in the middle."""
    stat = path.stat()
    return _is_multistream(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _is_multistream(path: Path, _size: int, _mtime_ns: int) -> bool:
    if compression(path) != "bzip2":
        return False
    with path.open("rb") as stream:
        try:
            head, behind = _one_stream(stream, 0, _LONGEST_HEAD)
        except _BrokenError:
            return False
        first = None if PAGE_START in head else stream_start(path, behind)
        if first is None:
            return False
        try:
            _one_stream(stream, first, _LONGEST_STREAM)
        except _BrokenError as error:
            # A damaged stream is one of many; one that goes on to the end of the file, or for ever, is not.
            return not error.cut_short and len(error.text) <= _LONGEST_STREAM
    return True


def stream_start(path: Path, position: int) -> int | None:
    """Where the first bz2 stream starts, at `position` or behind it, whose text starts with a page.

    Found by the ten bytes such a stream begins with: the index beside a dump tells it too, but takes longer
    to read than the few hundred kilobytes up to the next stream, and may belong to another dump.
    """
    with path.open("rb") as stream:
        magic = stream.read(4) + _BLOCK_MAGIC
        if path.stat().st_size <= position:
            return None
        with mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ) as data:
            while (position := data.find(magic, position)) >= 0:
                if _starts_page(data[position : position + _LONGEST_BLOCK]):
                    return position
                position += 1
    return None


def _starts_page(data: bytes) -> bool:
    # The ten bytes may stand inside a stream by chance, in some petabytes; no page does.
    try:
        return bz2.BZ2Decompressor().decompress(data, _CHUNK).lstrip().startswith(PAGE_START)
    except OSError:
        return False


def stream_ranges(path: Path, target_bytes: int) -> list[Range]:
    """Ranges of about `target_bytes` of the file, from the start of a stream to that of another."""
    size = path.stat().st_size
    count = max(1, round(size / target_bytes))
    starts = [0]
    for number in range(1, count):
        if size * number // count <= starts[-1]:
            continue
        start = stream_start(path, size * number // count)
        if start is None:
            break
        starts.append(start)
    return [Range(start, end) for start, end in zip(starts, [*starts[1:], None], strict=True)]


def stream_blocks(path: Path, part: Range, after: Place | None) -> Iterator[Block | Malformed]:
    """Blocks of whole streams; positions are bytes of the file.

    A block ends where a stream starts with a page: tools that compress in parallel cut in the middle of one.
    A stream that is damaged is told, and the ones behind it are read.
    """
    place = after or Place(part.start)
    end = path.stat().st_size if part.end is None else part.end
    position, text = place.position, bytearray()
    # Where nothing is left behind `after`, its reader has seen the end.
    told = position >= end
    with path.open("rb") as stream:
        while position < end:
            found, behind, broken = _next(path, stream, position, end)
            starts_page = found.lstrip().startswith(PAGE_START)
            if text and (broken or (len(text) >= BLOCK_BYTES and starts_page)):
                block = _block(text, place, position)
                yield block
                place, text = block.end, bytearray()
            text += found
            if broken:
                if text:
                    block = _block(text, place, behind)
                    yield block
                    place, text = block.end, bytearray()
                yield broken
            told = broken is not None or found.rstrip().endswith(DUMP_END)
            position = behind
    if text:
        yield _block(text, place, end)
    if part.end is None and not told:
        yield Malformed("truncated", path, end, f"the dump was cut short here. {AGAIN}", "byte")


def _block(text: bytearray, start: Place, position: int) -> Block:
    end = Place(position, start.records + text.count(PAGE_END))
    return Block(Lines(bytes(text), 0), start, end, position)


def _next(path: Path, stream: BinaryIO, position: int, end: int) -> tuple[bytes, int, Malformed | None]:
    """(text of the stream that starts here, the place behind it, what is wrong with it)."""
    try:
        return *_one_stream(stream, position, _LONGEST_STREAM), None
    except _BrokenError as error:
        again = stream_start(path, position + 1)
        behind = end if again is None else min(again, end)
        if not error.cut_short or again is not None:
            return b"", behind, Malformed("damaged", path, position, f"{error}. {AGAIN}", "byte", _PAGES)
        whole = error.text[: error.text.rfind(PAGE_END) + len(PAGE_END)] if PAGE_END in error.text else b""
        return whole, behind, Malformed("truncated", path, position, f"{error}. {AGAIN}", "byte", _PAGES)


def _one_stream(stream: BinaryIO, position: int, longest: int) -> tuple[bytes, int]:
    """(decompressed bytes of the stream that starts at `position`, the place behind it); raises `_BrokenError`."""
    stream.seek(position)
    decompressor = bz2.BZ2Decompressor()
    text = bytearray()
    while not decompressor.eof:
        data = stream.read(_CHUNK) if decompressor.needs_input else b""
        if not data and decompressor.needs_input:
            raise _BrokenError("a bz2 stream that starts here was cut short", bytes(text), cut_short=True)
        try:
            text += decompressor.decompress(data, _PIECE)
        except OSError as error:
            raise _BrokenError(f"damaged compressed data ({error})", bytes(text)) from None
        if len(text) > longest:
            raise _BrokenError(f"a bz2 stream of more than {longest >> 20} MiB", bytes(text))
    return bytes(text), stream.tell() - len(decompressor.unused_data)
