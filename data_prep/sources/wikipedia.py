"""Wikipedia: MediaWiki dumps (`pages-articles-multistream.xml.bz2`), or the cleaned `wikimedia/wikipedia`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from data_prep.sources.files import is_parquet, open_decompressed
from data_prep.sources.mediawiki_dump import Page, SiteInfo, read_dump
from data_prep.sources.records import Document, Dropped, Record, Source
from data_prep.sources.tables import read_rows, text_of

Variant = Literal["zh-hans", "zh-hant", "zh-cn", "zh-sg", "zh-my", "zh-tw", "zh-hk", "zh-mo"]


class Wikipedia(Source):
    """Articles (namespace 0, no redirects) as plain text.

    - `title`: the page title is the first line of its document
    - `variant`: what `-{zh-hans:..;zh-hant:..}-` is resolved to; it concerns Chinese dumps alone
    """

    title: bool = True
    variant: Variant = "zh-cn"

    def read(self, path: Path) -> Iterator[Record]:
        """One document an article; pages of other namespaces and redirects are counted as dropped."""
        if is_parquet(path) or _is_json_lines(path):
            yield from self._cleaned(path)
            return
        removed: frozenset[str] | None = None
        for site, page in read_dump(path):
            if removed is None:
                removed = _removed_names(site)
            yield self._record(page, site, removed, path)

    def _record(self, page: Page, site: SiteInfo, removed: frozenset[str], path: Path) -> Record:
        from mwparserfromhell.parser import ParserError

        from data_prep.wikitext import clean_wikitext

        if page.namespace != 0:
            return Dropped("namespace", path, page.number)
        if page.is_redirect:
            return Dropped("redirect", path, page.number)
        if page.model != "wikitext":
            return Dropped("not_wikitext", path, page.number)
        variant = self.variant if site.language.startswith("zh") else None
        try:
            cleaned = clean_wikitext(page.text, removed=removed, variant=variant)
        except (ParserError, RecursionError):
            return Dropped("unparsable_wikitext", path, page.number)
        if not cleaned.text:
            return Dropped("empty", path, page.number)
        return Document(self._with_title(cleaned.title or page.title, cleaned.text), path, page.number)

    def _cleaned(self, path: Path) -> Iterator[Record]:
        """Rows of `wikimedia/wikipedia`: title and text, cleaned already."""
        for number, row in read_rows(path, ["title", "text"] if self.title else ["text"]):
            if row is None:
                yield Dropped("blank_line", path, number)
                continue
            text = text_of(row, "text", path, number)
            if not text:
                yield Dropped("empty", path, number)
            elif self.title:
                yield Document(self._with_title(text_of(row, "title", path, number), text), path, number)
            else:
                yield Document(text, path, number)

    def _with_title(self, title: str, text: str) -> str:
        return f"{title}\n\n{text}" if self.title else text


def _removed_names(site: SiteInfo) -> frozenset[str]:
    from data_prep.wikitext.namespaces import REMOVED_KEYS, removed_names

    return removed_names(name for name, key in site.namespaces.items() if key in REMOVED_KEYS)


def _is_json_lines(path: Path) -> bool:
    with open_decompressed(path) as stream:
        return stream.read(64).lstrip().startswith(b"{")
