"""Wikipedia: MediaWiki dumps (`pages-articles-multistream.xml.bz2`), or the cleaned `wikimedia/wikipedia`."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from data_prep.sources.files import is_parquet, open_decompressed
from data_prep.sources.mediawiki_dump import Page, SiteInfo, dump_blocks, dump_ranges, pages_of, site_info
from data_prep.sources.records import Block, Document, Dropped, Malformed, Place, Range, Record, Source
from data_prep.sources.tables import split_table, table_blocks, table_rows, text_or_malformed
from data_prep.wikitext import clean_wikitext
from data_prep.wikitext.namespaces import REMOVED_KEYS, removed_names

Variant = Literal["zh-hans", "zh-hant", "zh-cn", "zh-sg", "zh-my", "zh-tw", "zh-hk", "zh-mo"]

# Characters. MediaWiki takes no page of more than 2 MiB; what is longer came from elsewhere.
_LONGEST_PAGE = 1 << 24


class Wikipedia(Source):
    """Articles (namespace 0, no redirects) as plain text.

    - `title`: the page title is the first line of its document
    - `variant`: what `-{zh-hans:..;zh-hant:..}-` is resolved to; it concerns Chinese dumps alone
    """

    title: bool = True
    variant: Variant = "zh-cn"

    def ranges(self, path: Path, target_bytes: int) -> list[Range]:
        """bz2 streams in a row of a multistream dump; tables as elsewhere; any other dump is one range."""
        return split_table(path, target_bytes) if _is_table(path) else dump_ranges(path, target_bytes)

    def blocks(self, path: Path, part: Range, after: Place | None = None) -> Iterator[Block | Malformed]:
        """Whole pages, or rows of a table."""
        if _is_table(path):
            return table_blocks(path, part, after, self._columns())
        return dump_blocks(path, part, after)

    def records(self, path: Path, block: Block) -> Iterator[Record]:
        """One document an article; pages of other namespaces and redirects are counted as dropped."""
        if _is_table(path):
            yield from self._cleaned(path, block)
            return
        site = site_info(path)
        removed = _removed_names(site)
        for page in pages_of(path, block):
            yield page if isinstance(page, Malformed) else self._record(page, site, removed, path)

    def _columns(self) -> list[str]:
        return ["title", "text"] if self.title else ["text"]

    def _record(self, page: Page, site: SiteInfo, removed: frozenset[str], path: Path) -> Record:
        if page.namespace != 0:
            return Dropped("namespace", path, page.number)
        if page.is_redirect:
            return Dropped("redirect", path, page.number)
        if page.model != "wikitext":
            return Dropped("not_wikitext", path, page.number)
        if len(page.text) > _LONGEST_PAGE:
            return Dropped("page_too_long", path, page.number)
        variant = self.variant if site.language.startswith("zh") else None
        cleaned = clean_wikitext(page.text, removed=removed, variant=variant)
        if not cleaned.text:
            return Dropped("empty", path, page.number)
        return Document(self._with_title(cleaned.title or page.title, cleaned.text), path, page.number)

    def _cleaned(self, path: Path, block: Block) -> Iterator[Record]:
        """Rows of `wikimedia/wikipedia`: title and text, cleaned already."""
        for found in table_rows(path, block, self._columns()):
            if not isinstance(found, tuple):
                yield found
                continue
            number, row = found
            text = text_or_malformed(row, "text", path, number)
            title = text_or_malformed(row, "title", path, number) if self.title else ""
            if isinstance(text, Malformed) or isinstance(title, Malformed):
                yield text if isinstance(text, Malformed) else title  # type: ignore[misc]
            elif not text:
                yield Dropped("empty", path, number)
            else:
                yield Document(self._with_title(title, text), path, number)

    def _with_title(self, title: str, text: str) -> str:
        return f"{title}\n\n{text}" if self.title else text


def _removed_names(site: SiteInfo) -> frozenset[str]:
    return removed_names(name for name, key in site.namespaces.items() if key in REMOVED_KEYS)


def _is_table(path: Path) -> bool:
    """Whether the file is parquet or JSON lines and no XML."""
    stat = path.stat()
    return _looks_like_a_table(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _looks_like_a_table(path: Path, _size: int, _mtime_ns: int) -> bool:
    if path.suffix == ".parquet" or is_parquet(path):
        return True
    with open_decompressed(path) as stream:
        return stream.read(64).lstrip().startswith(b"{")
