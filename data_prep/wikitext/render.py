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
# Marks of lists, indents and rules at the start of a line, which the parser makes a node of each.
_LINE_MARKS = re.compile(r"^(?:[*#:;]+|-{4,})", re.MULTILINE)
# Links to articles without markup inside, most of all: the parser takes twenty times as long for each.
_PLAIN_LINK = re.compile(r"\[\[([^\[\]{}|<>\n:&]+)(?:\|([^\[\]{}|<>\n]*))?\]\]")
_LONGEST_PIECE = 20_000
_MOST_LEFT_OPEN = 200
_SPACES = {"\u00a0": " ", "\u2002": " ", "\u2003": " ", "\u2009": " ", "\u00ad": ""}


class UnbalancedError(ValueError):
    """Markup that no page means: parsing it would take hours."""


def render(text: str, removed: frozenset[str]) -> str:
    """The text of a page whose comments and extension tags are out already.

    `removed` holds the namespace names whose links leave nothing.
    Raises `mwparserfromhell.parser.ParserError` where the parser gives up on a page, and `UnbalancedError`
    where it is not asked to try.
    """
    # Quotes for bold and italics are cut by a regular expression later: cheaper, and an unclosed one
    # cannot swallow the rest of the page.
    text = _PLAIN_LINK.sub(_link_text, _LINE_MARKS.sub("", text))
    return "".join(_rendered(piece, removed) for piece in _pieces(text))


def _pieces(text: str) -> Iterator[str]:
    """The text in pieces, where it is long: the parser looks for the end of what is open from every place.

    A link or an element that reaches across a cut is lost; pages so long have few of them, and those with
    thousands that are never closed would take it hours.
    """
    start = 0
    while len(text) - start > _LONGEST_PIECE:
        end = start + _LONGEST_PIECE
        cut = max(text.rfind("\n\n", start, end), text.rfind("\n=", start, end))
        if cut <= start:
            cut = text.rfind("\n", start, end)
        end = cut if cut > start else end
        yield text[start:end]
        start = end
    yield text[start:]


def _left_open(text: str) -> int:
    """How many more links, templates and tables are opened than closed."""
    pairs = (("[[", "]]"), ("{{", "}}"), ("{|", "|}"))
    return sum(max(0, text.count(opening) - text.count(closing)) for opening, closing in pairs)


def _rendered(text: str, removed: frozenset[str]) -> str:
    if _left_open(text) > _MOST_LEFT_OPEN:
        raise UnbalancedError(f"more than {_MOST_LEFT_OPEN} links, templates or tables are left open")
    code = mwparserfromhell.parse(text, skip_style_tags=True)
    return "".join(_nodes(code, removed))


def _nodes(code: Any, removed: frozenset[str]) -> Iterator[str]:
    for node in code.nodes if code is not None else ():
        if isinstance(node, nodes.Text):
            yield _text(node.value)
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


def _link_text(link: re.Match[str]) -> str:
    shown = link[2]
    return shown if shown and not shown.isspace() else link[1].strip()


def _text(value: str) -> str:
    """Running text without quotes, magic words and stray tags.

    Done here and not on the whole page: what an entity spells (`&lt;br&gt;`) is no markup.
    """
    if "''" in value:
        value = _QUOTES.sub("", value)
    if "__" in value:
        value = _MAGIC_WORDS.sub("", value)
    if "<" in value:
        value = _STRAY_TAGS.sub("", value)
    return value


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
