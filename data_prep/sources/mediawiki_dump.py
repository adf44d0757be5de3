"""The pages of a MediaWiki export (`pages-articles.xml`), read as a stream in constant memory."""

from __future__ import annotations

import bz2
import contextlib
import functools
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from xml.parsers import expat

from data_prep.errors import DataPrepError
from data_prep.sources.files import compression, open_decompressed
from data_prep.sources.lines import BLOCK_BYTES, Lines, line_blocks
from data_prep.sources.records import Block, Malformed, Place, Range

_CHUNK = 1 << 16
_LONGEST_HEAD = 1 << 24
# In XML neither can stand inside a text: there `<` is written `&lt;`.
_PAGE_END = b"</page>"
_DUMP_END = b"</mediawiki>"
_CUT = "the dump was cut short"
_AGAIN = "Download it again and compare its checksum."
_BLOCK_MAGIC = b"\x31\x41\x59\x26\x53\x59"
# Compressed bytes that hold a whole bz2 block of 900 kB, whatever is in it.
_LONGEST_BLOCK = 1 << 20


@dataclass(slots=True)
class Page:
    """One page, with its latest revision where a dump holds several."""

    number: int
    title: str = ""
    namespace: int | None = None
    is_redirect: bool = False
    model: str = "wikitext"
    text: str = ""


@dataclass(slots=True)
class SiteInfo:
    """What a dump says of itself: its language and its namespaces {name: key}."""

    language: str = ""
    namespaces: dict[str, str] = field(default_factory=dict)


class _Handlers:
    """Collects pages from expat's events. `<redirect>` tells redirects; the page text does not."""

    def __init__(self) -> None:
        self.site = SiteInfo()
        self.pages: list[Page] = []
        self.root = ""
        self._number = 0
        self._page: Page | None = None
        self._path: list[str] = []
        self._characters: list[str] | None = None
        self._namespace_key = ""

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._path.append(name)
        self._characters = None
        if len(self._path) == 1:
            self.root = name
            self.site.language = attributes.get("xml:lang", "")
        elif name == "page" and len(self._path) == 2:
            self._number += 1
            self._page = Page(self._number)
        elif name == "redirect" and self._page is not None and len(self._path) == 3:
            self._page.is_redirect = True
        elif name == "namespace":
            self._namespace_key = attributes.get("key", "")
        if name in ("title", "ns", "model", "text", "namespace"):
            self._characters = []

    def characters(self, data: str) -> None:
        if self._characters is not None:
            self._characters.append(data)

    def end(self, name: str) -> None:
        self._path.pop()
        content = "".join(self._characters) if self._characters is not None else ""
        self._characters = None
        depth = len(self._path)
        if name == "namespace":
            self.site.namespaces[content] = self._namespace_key
        if self._page is None:
            return
        if name == "page" and depth == 1:
            self.pages.append(self._page)
            self._page = None
        elif name == "title" and depth == 2:
            self._page.title = content
        elif name == "ns" and depth == 2:
            self._page.namespace = int(content)
        elif name == "model" and depth == 3:
            self._page.model = content
        elif name == "text" and depth == 3:
            self._page.text = content


def site_info(path: Path) -> SiteInfo:
    """What stands before the first page.

    Raises `DataPrepError` where the file is no MediaWiki export, or declares XML entities, which no
    MediaWiki export does and which can be a decompression bomb.
    """
    stat = path.stat()
    return _site_info(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _site_info(path: Path, _size: int, _mtime_ns: int) -> SiteInfo:
    handlers = _Handlers()
    parser = _parser(handlers, path)
    with open_decompressed(path) as stream:
        head = bytearray()
        while b"<page" not in head and len(head) < _LONGEST_HEAD and (piece := stream.read(_CHUNK)):
            head += piece
    with contextlib.suppress(expat.ExpatError, ValueError):
        parser.Parse(bytes(head.partition(b"<page")[0]), False)
    if not handlers.root:
        raise DataPrepError(
            f"{path}: line {parser.CurrentLineNumber}: not XML. Take a pages-articles dump (.xml.bz2), "
            "not its -index.txt.bz2."
        )
    if handlers.root != "mediawiki":
        raise DataPrepError(
            f"{path}: its root element is <{handlers.root}>, not <mediawiki>. Take a pages-articles dump."
        )
    return handlers.site


def dump_ranges(path: Path, target_bytes: int) -> list[Range]:
    """Ranges of a multistream dump: bytes of the file, from the start of a bz2 stream to that of another.

    Where a stream starts is found on the spot, in the bytes behind the place asked for: that takes less
    time than reading the index beside the dump, which tells it too, and needs no trust in it.
    """
    site_info(path)
    size = path.stat().st_size
    starts = [0]
    if is_multistream(path):
        for number in range(1, round(size / target_bytes)):
            start = _stream_start(path, max(size * number // round(size / target_bytes), starts[-1] + 1))
            if start is None:
                break
            starts.append(start)
    return [Range(start, end) for start, end in zip(starts, [*starts[1:], None], strict=True)]


def is_multistream(path: Path) -> bool:
    """Whether a dump is a row of bz2 streams; the first of them holds the head alone."""
    return compression(path) == "bzip2" and _stream_start(path, 1) is not None


def dump_blocks(path: Path, part: Range, after: Place | None) -> Iterator[Block | Malformed]:
    """Blocks of whole pages; positions are those of the ranges, or decompressed bytes in other dumps.

    What cannot be decompressed is told; in a multistream dump the streams behind it are read.
    """
    site_info(path)
    if is_multistream(path):
        yield from _stream_blocks(path, part, after)
        return
    place, tail = after or Place(), b""
    for block in line_blocks(path, part, after, _after_last_page, _pages_in):
        yield block
        if isinstance(block, Malformed):
            return
        place, tail = block.end, block.payload.data[block.payload.data.rfind(_PAGE_END) :]
    # A page that is cut short tells so itself.
    if not tail.rstrip().endswith(_DUMP_END) and b"<page" not in tail:
        yield Malformed("truncated", path, place.records + 1, f"{_CUT} before this page. {_AGAIN}", "page")


def _after_last_page(buffer: bytearray, size: int) -> int:
    place = int(buffer.rfind(_PAGE_END, 0, size))
    return place + len(_PAGE_END) if place >= 0 else 0


def _pages_in(data: bytes) -> int:
    return data.count(_PAGE_END)


def _stream_start(path: Path, position: int) -> int | None:
    """The first bz2 stream of pages that starts at `position` or behind it."""
    with path.open("rb") as stream:
        magic = stream.read(4) + _BLOCK_MAGIC
        size = os.fstat(stream.fileno()).st_size
        if size <= position:
            return None
        with mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ) as data:
            while (position := data.find(magic, position)) >= 0:
                # Ten bytes may stand there by chance, in some petabytes; a page does not.
                try:
                    head = bz2.BZ2Decompressor().decompress(
                        data[position : position + _LONGEST_BLOCK], 1 << 16
                    )
                except OSError:
                    head = b""
                if head.lstrip().startswith((b"<page", b"</mediawiki>")):
                    return position
                position += 1
    return None


def _stream_blocks(path: Path, part: Range, after: Place | None) -> Iterator[Block | Malformed]:
    place = after or Place(part.start)
    end = path.stat().st_size if part.end is None else part.end
    ends_dump = False
    collected: list[bytes] = []
    size, position = 0, place.position
    with path.open("rb") as stream:
        while position < end:
            stream.seek(position)
            found, behind = _one_stream(stream)
            if isinstance(found, bytes):
                collected.append(found)
                size += len(found)
                ends_dump = found.rstrip().endswith(_DUMP_END)
            if collected and (size >= BLOCK_BYTES or not isinstance(found, bytes) or behind >= end):
                data = b"".join(collected)
                reached = Place(behind, place.records + _pages_in(data))
                yield Block(Lines(data, 0), place, reached, behind)
                place, collected, size = reached, [], 0
            if not isinstance(found, bytes):
                again = _stream_start(path, position + 1)
                behind = end if again is None else min(again, end)
                problem = f"{found}. {_AGAIN}"
                # A stream of a dump holds a hundred pages.
                yield Malformed("damaged", path, position, problem, "byte", 100)
                ends_dump = True
            position = behind
    if part.end is None and not ends_dump:
        yield Malformed(
            "truncated", path, position, "the dump was cut short here. Download it again.", "byte"
        )


def _one_stream(stream: BinaryIO) -> tuple[bytes | str, int]:
    """(decompressed bytes of the stream that starts here, or what is wrong with it; the place behind it)."""
    decompressor = bz2.BZ2Decompressor()
    pieces = []
    while not decompressor.eof:
        data = stream.read(_CHUNK)
        if not data:
            return "the compressed data were cut short", stream.tell()
        try:
            pieces.append(decompressor.decompress(data))
        except OSError as error:
            return f"damaged compressed data ({error})", stream.tell()
    return b"".join(pieces), stream.tell() - len(decompressor.unused_data)


def pages_of(path: Path, block: Block) -> Iterator[Page | Malformed]:
    """The pages of a block, numbered from the start of their range."""
    site, data = site_info(path), block.payload.data
    number = block.start.records
    for text in _page_texts(data):
        number += 1
        page = _parse_page(text, number)
        if isinstance(page, Page):
            yield _with_namespace(page, site)
        else:
            problem = f"{page}. {_AGAIN}"
            yield Malformed("malformed_xml", path, number, problem, "page")
    if b"<page" in data[data.rfind(_PAGE_END) + len(_PAGE_END) if number > block.start.records else 0 :]:
        yield Malformed("truncated", path, number + 1, f"{_CUT} inside this page. {_AGAIN}", "page")


def _page_texts(data: bytes) -> Iterator[bytes]:
    start = data.find(b"<page")
    while start >= 0 and (end := data.find(_PAGE_END, start)) >= 0:
        yield data[start : end + len(_PAGE_END)]
        start = data.find(b"<page", end)


def _parse_page(text: bytes, number: int) -> Page | str:
    """One page, or what is wrong with it."""
    handlers = _Handlers()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.buffer_size = 1 << 16
    parser.StartElementHandler = handlers.start
    parser.EndElementHandler = handlers.end
    parser.CharacterDataHandler = handlers.characters
    try:
        parser.Parse(b"<mediawiki>", False)
        parser.Parse(text, False)
        parser.Parse(b"</mediawiki>", True)
    except (expat.ExpatError, ValueError) as error:
        return f"not well-formed XML ({error})"
    if not handlers.pages:
        return "no page"
    page = handlers.pages[0]
    page.number = number
    return page


def _parser(handlers: _Handlers, path: Path) -> Any:
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = handlers.start
    parser.EndElementHandler = handlers.end
    parser.CharacterDataHandler = handlers.characters

    def refuse(name: str, *_: object) -> None:
        raise DataPrepError(
            f"{path}: line {parser.CurrentLineNumber}: declares the XML entity {name!r}. MediaWiki exports "
            "declare none; this file does not come from MediaWiki as it is."
        )

    parser.EntityDeclHandler = refuse
    return parser


def _with_namespace(page: Page, site: SiteInfo) -> Page:
    """Exports older than schema 0.6 have no <ns>; there the prefix of the title tells the namespace."""
    if page.namespace is None:
        prefix, colon, _ = page.title.partition(":")
        key = site.namespaces.get(prefix, "0") if colon else "0"
        page.namespace = int(key or 0)
    return page
