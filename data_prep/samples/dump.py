"""MediaWiki multistream dumps: independent bz2 streams of a few pages each, and the index of their offsets."""

from __future__ import annotations

import bz2
import hashlib
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape, quoteattr

from data_prep.errors import DataPrepError
from data_prep.whole_files import write_whole

_DATE = "20240120"
_PAGES_PER_STREAM = 8
_SITES = {"zh": "维基百科", "ko": "위키백과"}
_NAMESPACES: dict[str, dict[int, str]] = {
    "zh": {
        **{-2: "媒体文件", -1: "特殊", 0: "", 1: "讨论", 2: "用户", 3: "用户讨论", 4: "维基百科"},
        **{5: "维基百科讨论", 6: "文件", 7: "文件讨论", 8: "MediaWiki", 9: "MediaWiki讨论", 10: "模板"},
        **{11: "模板讨论", 12: "帮助", 13: "帮助讨论", 14: "分类", 15: "分类讨论"},
    },
    "ko": {
        **{-2: "미디어", -1: "특수", 0: "", 1: "토론", 2: "사용자", 3: "사용자토론", 4: "위키백과"},
        **{5: "위키백과토론", 6: "파일", 7: "파일토론", 8: "미디어위키", 9: "미디어위키토론", 10: "틀"},
        **{11: "틀토론", 12: "도움말", 13: "도움말토론", 14: "분류", 15: "분류토론"},
    },
}


class SamplePage(NamedTuple):
    """A page as the sample files hold it; `redirect` is the title it leads to."""

    title: str
    namespace: int
    redirect: str | None
    wikitext: str


def write_dump(folder: Path, language: str, texts: Path) -> None:
    """Write `<language>wiki-...-pages-articles-multistream.xml.bz2` and its index from `*.wikitext` files."""
    pages = [read_page(path) for path in sorted(texts.glob("*.wikitext"))]
    streams = [bz2.compress(_head(language).encode())]
    index = []
    for start in range(0, len(pages), _PAGES_PER_STREAM):
        offset = sum(map(len, streams))
        numbered = list(enumerate(pages[start : start + _PAGES_PER_STREAM], start=start + 1))
        streams.append(bz2.compress("".join(_page(page, number) for number, page in numbered).encode()))
        index += [f"{offset}:{number}:{page.title}\n" for number, page in numbered]
    streams.append(bz2.compress(b"</mediawiki>\n"))
    name = f"{language}wiki-{_DATE}-pages-articles-multistream"
    write_whole(folder / f"{name}.xml.bz2", b"".join(streams))
    write_whole(folder / f"{name}-index.txt.bz2", bz2.compress("".join(index).encode()))


def read_page(path: Path) -> SamplePage:
    """A sample file: header lines `title:`, `ns:` and maybe `redirect:`, a blank line, the wikitext.

    Raises `DataPrepError` where the header is not so.
    """
    head, _, body = path.read_text(encoding="utf-8").partition("\n\n")
    fields = {}
    for line in head.splitlines():
        key, _, value = line.partition(":")
        fields[key.strip()] = value.strip()
    if not fields.get("title") or not fields.get("ns", "").isdigit():
        raise DataPrepError(f"{path}: its header needs the lines `title: ...` and `ns: NUMBER`.")
    return SamplePage(fields["title"], int(fields["ns"]), fields.get("redirect"), body.strip())


def _head(language: str) -> str:
    namespaces = "".join(
        f'      <namespace key="{key}" case="first-letter"'
        + (f">{escape(name)}</namespace>\n" if name else " />\n")
        for key, name in _NAMESPACES[language].items()
    )
    schema = "http://www.mediawiki.org/xml/export-0.10/"
    return (
        f'<mediawiki xmlns="{schema}" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
        f'xsi:schemaLocation="{schema} http://www.mediawiki.org/xml/export-0.10.xsd" version="0.10" '
        f'xml:lang="{language}">\n  <siteinfo>\n    <sitename>{_SITES[language]}</sitename>\n'
        f"    <dbname>{language}wiki</dbname>\n    <base>https://{language}.example.org/wiki/</base>\n"
        "    <generator>MediaWiki 1.42.0-wmf.13</generator>\n    <case>first-letter</case>\n"
        f"    <namespaces>\n{namespaces}    </namespaces>\n  </siteinfo>\n"
    )


def _page(page: SamplePage, number: int) -> str:
    redirect = f"    <redirect title={quoteattr(page.redirect)} />\n" if page.redirect else ""
    encoded = page.wikitext.encode()
    sha1 = hashlib.sha1(encoded, usedforsecurity=False).hexdigest()
    return (
        f"  <page>\n    <title>{escape(page.title)}</title>\n    <ns>{page.namespace}</ns>\n"
        f"    <id>{number}</id>\n{redirect}    <revision>\n      <id>{1000 + number}</id>\n"
        "      <timestamp>2024-01-01T00:00:00Z</timestamp>\n"
        "      <contributor>\n        <username>Sample</username>\n        <id>1</id>\n"
        "      </contributor>\n      <model>wikitext</model>\n      <format>text/x-wiki</format>\n"
        f'      <text bytes="{len(encoded)}" xml:space="preserve">{escape(page.wikitext)}</text>\n'
        f"      <sha1>{sha1}</sha1>\n    </revision>\n  </page>\n"
    )
