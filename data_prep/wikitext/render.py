"""What is left of a page without templates and tables, to plain text: links show their text, tags nothing.

Each step is one pass of a regular expression that never looks back over what it has read, so that a page
takes time in proportion to its length, whatever it holds. mwparserfromhell, which is what one would take,
builds a Python object for each node and looks for the end of all that is open from every place: see
`benchmarks/wikipedia.py` for what that costs, even for a page without its templates.
"""

from __future__ import annotations

import html
import re

from data_prep.wikitext.extensions import REMOVED
from data_prep.wikitext.namespaces import leaves_no_text

# Marks of lists, indents and rules at the start of a line.
_LINE_MARKS = re.compile(r"^(?:[*#:;]+|-{4,})", re.MULTILINE)
_HEADING = re.compile(rf"^=.+=[ \t{REMOVED}]*$", re.MULTILINE)
# The innermost ones: no link inside. Captions and the texts of links may go over several lines and hold `[1]`.
# Every bracket can be taken in one way only: with two, a long row of them would take forever.
_LINK = re.compile(
    r"\[\[([^\[\]|\n]+)"
    r"(?:\|([^\[\]]*(?:(?:\[[^\[\]\n]*\]|\[(?!\[|[^\[\]\n]*\])|\](?!\]))[^\[\]]*)*))?\]\]"
)
_EXTERNAL_LINK = re.compile(
    r"\[(?:https?://|ftps?://|ircs?://|gopher://|news:|mailto:|//)[^\s\[\]]*(?:[ \t]([^\[\]\n]*))?\]",
    re.IGNORECASE,
)
# A caption holds links, which seldom hold another level. Deeper ones stay as they are.
_LEVELS = 8
# Tags that begin or end a line, and those that leave nothing; the other half of a pair may be missing.
_BREAKS = "br|div|p|blockquote|center|poem|ul|ol|dl|li|dd|dt|tr|section|h[1-6]"
_INLINE = (
    "abbr|b|bdi|bdo|big|caption|cite|code|col|colgroup|data|del|dfn|em|font|hr|i|ins|kbd|link|mark|meta|q|rb|rp|rt"
    "|rtc|ruby|s|samp|small|span|strike|strong|sub|sup|table|tbody|td|tfoot|th|thead|time|tt|u|var|wbr"
    "|noinclude|onlyinclude|includeonly|nowiki|ref|references|gallery|math|translate|tvar|nobr"
)
_TAG = re.compile(
    rf"</?(?:({_BREAKS})|{_INLINE})\b(?:[^<>\"]*(?:\"[^\"<\n]*\"[^<>\"]*)*>|[^<>]*>)", re.IGNORECASE
)
_QUOTES = re.compile(r"'{5}|'{2,3}")
_MAGIC_WORDS = re.compile(
    r"__(?:(?:NO|FORCE)?TOC|NOEDITSECTION|(?:NO)?NEWSECTIONLINK|NOGALLERY|HIDDENCAT|NOCONTENTCONVERT|NOCC"
    r"|NOTITLECONVERT|NOTC|(?:NO)?INDEX|STATICREDIRECT|DISAMBIG|NOGLOBAL|EXPECTUNUSED(?:CATEGORY|TEMPLATE)"
    r"|EXPECTED_UNCONNECTED_PAGE|ARCHIVEDTALK|NOTALK"
    # Their names in the wiki's own language, which are never anything else between double underscores.
    r"|[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]{2,12})__",
    re.IGNORECASE,
)
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,31});")
_SPACES = {"\u00a0": " ", "\u2002": " ", "\u2003": " ", "\u2009": " ", "\u00ad": ""}


def render(text: str, removed: frozenset[str]) -> str:
    """The text of a page whose comments, extension tags, templates and tables are out already.

    `removed` holds the namespace names whose links leave nothing.
    """
    text = _LINE_MARKS.sub("", text)
    if "''" in text:
        # Before the tags and links: signs on both sides of one would make other signs together.
        text = _QUOTES.sub("", text)
    if "<" in text:
        text = _TAG.sub(_tag, text)
    if "[" in text:
        text = _links(text, removed)
    if "=" in text:
        text = _HEADING.sub(_heading, text)
    if "__" in text:
        text = _MAGIC_WORDS.sub("", text)
    # Last: what an entity spells (`&lt;br&gt;`) is no markup.
    return _ENTITY.sub(_entity, text) if "&" in text else text


def _tag(tag: re.Match[str]) -> str:
    return "\n" if tag[1] else ""


def _links(text: str, removed: frozenset[str]) -> str:
    """Links replaced by what they show, innermost first."""

    def shown(link: re.Match[str]) -> str:
        title, label = link.groups()
        if ":" in title and leaves_no_text(title, removed):
            return REMOVED
        if label and not label.isspace():
            return str(label)
        return str(title).strip().removeprefix(":")

    for _ in range(_LEVELS):
        before = text
        text = _LINK.sub(shown, _EXTERNAL_LINK.sub(_label, text))
        if text == before:
            break
    return text


def _label(link: re.Match[str]) -> str:
    return (link[1] or "").lstrip(" \t")


def _heading(line: re.Match[str]) -> str:
    """A title has as many signs before it as behind it; what is more on one side belongs to it."""
    found = line[0].rstrip(f" \t{REMOVED}")
    level = min(len(found) - len(found.lstrip("=")), len(found) - len(found.rstrip("=")), 6)
    title = found[level:-level].strip()
    return f"\n\n{title}\n" if title.strip("=") else line[0]


def _entity(entity: re.Match[str]) -> str:
    character = html.unescape(entity[0])
    return _SPACES.get(character, character)
