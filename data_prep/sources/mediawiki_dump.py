"""The pages of a MediaWiki export (`pages-articles.xml`), read as a stream in constant memory."""

from __future__ import annotations

import contextlib
import functools
import html
import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.parsers import expat

from data_prep.errors import DataPrepError
from data_prep.sources.files import DamagedDataError, compression, open_decompressed
from data_prep.sources.lines import line_blocks
from data_prep.sources.mediawiki_streams import (
    AGAIN,
    DUMP_END,
    PAGE_END,
    PAGE_START,
    is_multistream,
    stream_blocks,
    stream_ranges,
)
from data_prep.sources.records import Block, Malformed, Place, Range

_CHUNK = 1 << 16
_LONGEST_HEAD = 1 << 24
_CUT = "the dump was cut short"
# A range of plain XML starts with the line of a page.
_PAGE_LINE = re.compile(rb"\n[ \t]*<page>")


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
    head = bytearray()
    with open_decompressed(path) as stream:
        try:
            while PAGE_START not in head and len(head) < _LONGEST_HEAD and (piece := stream.read1(_CHUNK)):  # type: ignore[attr-defined]
                head += piece
        except (EOFError, DamagedDataError):
            # Damage behind the head is a matter of the pages.
            if b"</siteinfo>" not in head:
                raise
    with contextlib.suppress(expat.ExpatError, ValueError):
        parser.Parse(bytes(head.partition(PAGE_START)[0]), False)
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
    """Ranges of a multistream dump or of plain XML, in bytes of the file; any other dump is one range."""
    site_info(path)
    if is_multistream(path):
        return stream_ranges(path, target_bytes)
    return _plain_ranges(path, target_bytes) if compression(path) is None else [Range()]


def _plain_ranges(path: Path, target_bytes: int) -> list[Range]:
    size = path.stat().st_size
    count = max(1, round(size / target_bytes))
    starts = [0]
    if count > 1:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ) as data:
            for number in range(1, count):
                found = _PAGE_LINE.search(data, max(size * number // count, starts[-1]))
                if found:
                    starts.append(found.start() + 1)
    return [Range(start, end) for start, end in zip(starts, [*starts[1:], None], strict=True)]


def dump_blocks(path: Path, part: Range, after: Place | None) -> Iterator[Block | Malformed]:
    """Blocks of whole pages; positions are those of the ranges, or decompressed bytes in other dumps.

    What cannot be decompressed is told; in a multistream dump the streams behind it are read.
    """
    site_info(path)
    if is_multistream(path):
        yield from stream_blocks(path, part, after)
        return
    place, tail = after or Place(), None
    for block in line_blocks(path, part, after, _after_last_page, _pages_in):
        yield block
        if isinstance(block, Malformed):
            return
        place, tail = block.end, block.payload.data[block.payload.data.rfind(PAGE_END) :]
    # Where nothing was left behind `after`, its reader has seen the end. A page that is cut short tells so itself.
    if (
        part.end is None
        and tail is not None
        and not tail.rstrip().endswith(DUMP_END)
        and PAGE_START not in tail
    ):
        yield Malformed("truncated", path, place.records + 1, f"{_CUT} before this page. {AGAIN}", "page")


def _after_last_page(buffer: bytearray, size: int) -> int:
    place = int(buffer.rfind(PAGE_END, 0, size))
    return place + len(PAGE_END) if place >= 0 else 0


def _pages_in(data: bytes) -> int:
    return data.count(PAGE_END)


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
            problem = f"{_title(text)!r} is {page}. {AGAIN}"
            yield Malformed("malformed_xml", path, number, problem, "page")
    if PAGE_START in data[data.rfind(PAGE_END) + len(PAGE_END) if number > block.start.records else 0 :]:
        yield Malformed("truncated", path, number + 1, f"{_CUT} inside this page. {AGAIN}", "page")


def _title(text: bytes) -> str:
    title = text.partition(b"<title>")[2].partition(b"</title>")[0]
    return html.unescape(title[:200].decode(errors="replace"))


def _page_texts(data: bytes) -> Iterator[bytes]:
    start = data.find(PAGE_START)
    while start >= 0 and (end := data.find(PAGE_END, start)) >= 0:
        yield data[start : end + len(PAGE_END)]
        start = data.find(PAGE_START, end)


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
