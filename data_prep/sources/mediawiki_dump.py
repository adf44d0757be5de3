"""The pages of a MediaWiki export (`pages-articles.xml`), read as a stream in constant memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.parsers import expat

from data_prep.errors import DataPrepError
from data_prep.sources.files import open_decompressed

_CHUNK = 1 << 16


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


def read_dump(path: Path) -> Iterator[tuple[SiteInfo, Page]]:
    """Each page of a dump (.xml, or compressed; multistream too), in order, and what the dump says of itself.

    Raises `DataPrepError` naming the file and the line where it is cut short, malformed, or declares
    XML entities, which no MediaWiki export does and which can be a decompression bomb.
    """
    handlers = _Handlers()
    parser = _parser(handlers, path)
    with open_decompressed(path) as stream:
        while True:
            chunk = stream.read(_CHUNK)
            try:
                parser.Parse(chunk, not chunk)
            except (expat.ExpatError, ValueError) as error:
                raise DataPrepError(_malformed(path, parser, handlers, error)) from None
            if handlers.root not in ("", "mediawiki"):
                raise DataPrepError(
                    f"{path}: its root element is <{handlers.root}>, not <mediawiki>. "
                    "Take a pages-articles dump."
                )
            for page in handlers.pages:
                yield handlers.site, _with_namespace(page, handlers.site)
            handlers.pages.clear()
            if not chunk:
                return


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


def _malformed(path: Path, parser: Any, handlers: _Handlers, error: Exception) -> str:
    if not handlers.root:
        return (
            f"{path}: line {parser.CurrentLineNumber}: not XML. Take a pages-articles dump (.xml.bz2), "
            "not its -index.txt.bz2."
        )
    seen = f"after page {handlers.pages[-1].title!r}" if handlers.pages else f"near page {handlers._number}"
    what = str(error).split(":")[0]
    return (
        f"{path}: line {parser.CurrentLineNumber}, {seen}: not a whole MediaWiki export ({what}). "
        "It was cut short or damaged; download it again and compare its checksum."
    )


def _with_namespace(page: Page, site: SiteInfo) -> Page:
    """Exports older than schema 0.6 have no <ns>; there the prefix of the title tells the namespace."""
    if page.namespace is None:
        prefix, colon, _ = page.title.partition(":")
        key = site.namespaces.get(prefix, "0") if colon else "0"
        page.namespace = int(key or 0)
    return page
