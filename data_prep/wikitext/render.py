"""Parsed wikitext to plain text: links show their text, templates and tables nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import mwparserfromhell
from mwparserfromhell import nodes

from data_prep.wikitext.extensions import REMOVED
from data_prep.wikitext.namespaces import leaves_no_text

_NOTHING = frozenset(
    {"table", "ref", "references", "gallery", "math", "hr", "includeonly", "style", "script"}
)
_BLOCKS = frozenset({"div", "p", "blockquote", "center", "poem", "ul", "ol", "dl", "section", "tr"})
_QUOTES = re.compile(r"'{5}|'{2,3}")
_MAGIC_WORDS = re.compile(
    r"__(?:(?:NO|FORCE)?TOC|NOEDITSECTION|(?:NO)?NEWSECTIONLINK|NOGALLERY|HIDDENCAT|NOCONTENTCONVERT|NOCC"
    r"|NOTITLECONVERT|NOTC|(?:NO)?INDEX|STATICREDIRECT|DISAMBIG|NOGLOBAL|EXPECTUNUSED(?:CATEGORY|TEMPLATE)"
    r"|EXPECTED_UNCONNECTED_PAGE|ARCHIVEDTALK|NOTALK"
    # Their names in the wiki's own language, which are never anything else between double underscores.
    r"|[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]{2,12})__",
    re.IGNORECASE,
)
# Tags whose other half is missing, which the parser leaves as text.
_STRAY_TAGS = re.compile(
    r"</?(?:ref|small|big|div|span|center|br|nowiki|references|font|sup|sub|p|u|b|i|s|gallery|blockquote|noinclude"
    r"|onlyinclude|includeonly|poem|table|tr|td|th|li|ul|ol)\b[^<>]*>",
    re.IGNORECASE,
)
_SPACES = {"\u00a0": " ", "\u2002": " ", "\u2003": " ", "\u2009": " ", "\u00ad": ""}


def render(text: str, removed: frozenset[str]) -> str:
    """The text of a page whose comments and extension tags are out already.

    `removed` holds the namespace names whose links leave nothing.
    Raises `mwparserfromhell.parser.ParserError` where the parser gives up on a page.
    """
    # Quotes for bold and italics are cut by a regular expression later: cheaper, and an unclosed one
    # cannot swallow the rest of the page.
    code = mwparserfromhell.parse(text, skip_style_tags=True)
    return "".join(_nodes(code, removed))


def _nodes(code: Any, removed: frozenset[str]) -> Iterator[str]:
    for node in code.nodes if code is not None else ():
        if isinstance(node, nodes.Text):
            # Here and not on the whole text: what an entity spells (`&lt;br&gt;`) is no markup.
            yield _STRAY_TAGS.sub("", _MAGIC_WORDS.sub("", _QUOTES.sub("", node.value)))
        elif isinstance(node, nodes.Wikilink):
            yield from _wikilink(node, removed)
        elif isinstance(node, nodes.Tag):
            yield from _tag(node, removed)
        elif isinstance(node, nodes.Heading):
            yield "\n\n"
            yield "".join(_nodes(node.title, removed)).strip()
            yield "\n"
        elif isinstance(node, nodes.ExternalLink):
            yield from _nodes(node.title if node.brackets else node.url, removed)
        elif isinstance(node, nodes.HTMLEntity):
            yield _entity(node)
        elif isinstance(node, nodes.Template | nodes.Argument):
            yield REMOVED


def _wikilink(node: nodes.Wikilink, removed: frozenset[str]) -> Iterator[str]:
    title = str(node.title)
    if leaves_no_text(title, removed):
        yield REMOVED
        return
    if node.text is not None and str(node.text).strip():
        yield from _nodes(node.text, removed)
    else:
        yield "".join(_nodes(node.title, removed)).strip().removeprefix(":")


def _tag(node: nodes.Tag, removed: frozenset[str]) -> Iterator[str]:
    name = str(node.tag).strip().lower()
    if name in _NOTHING:
        return
    if name == "br":
        yield "\n"
        return
    # The markers of lists (`*`, `#`, `:`, `;`) are tags without contents; their items are ordinary nodes.
    block = name in _BLOCKS or (name in ("li", "dd", "dt") and not node.wiki_markup)
    if block:
        yield "\n"
    yield from _nodes(node.contents, removed)
    if block:
        yield "\n"


def _entity(node: nodes.HTMLEntity) -> str:
    try:
        character = str(node.normalize())
    except (ValueError, OverflowError):
        return str(node)
    return _SPACES.get(character, character)
