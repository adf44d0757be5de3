"""Comments and extension tags, taken out before anything else is looked at, as MediaWiki itself does.

What stands inside `<nowiki>` or `<math>` is not wikitext: read as such it would unbalance the page.
"""

from __future__ import annotations

import functools
import html
import re

# Their content is not running text.
_REMOVED = (
    "ref|references|math|chem|ce|gallery|timeline|score|graph|mapframe|maplink|imagemap|hiero|inputbox"
    "|templatedata|templatestyles|categorytree|indicator|section|charinsert|phonos|rss|dynamicpagelist"
    "|includeonly|style|script"
)
# Their content is text in which markup means nothing.
_LITERAL = "nowiki|pre|syntaxhighlight|source"
_START = re.compile(rf"<(?:!--|({_REMOVED}|{_LITERAL})\b)", re.IGNORECASE)
# The rest of an opening tag: a `>` in double quotes does not end it, unless they are never closed.
_ATTRIBUTES = re.compile(r"[^<>\"]*(?:\"[^\"\n]*\"[^<>\"]*)*>|[^<>]*>")
# None of these characters may stand in XML, so no page holds them.
REMOVED = "\x04"
"""Where something was removed, so that the brackets and spaces round it can go as well."""

_KEPT = re.compile("\x02(\\d+)\x03")
_OURS = re.compile("[\x02-\x05]")
_BLOCKS = frozenset({"pre", "syntaxhighlight", "source"})


def take_out(text: str) -> tuple[str, list[str]]:
    """(text without comments and extension tags, literal contents that `put_back` puts in their places)."""
    text = _OURS.sub("", text)
    literals: list[str] = []
    pieces: list[str] = []
    # Tags that are not closed in the rest of the page: looked for once each and not from every opening.
    unclosed: set[str] = set()
    position = search_from = 0
    while start := _START.search(text, search_from):
        tag = (start[1] or "").lower()
        if not tag:
            end, instead = _behind_comment(text, start.end()), ""
        else:
            content, end = _content(text, start.end(), tag, unclosed)
            if end < 0:
                search_from = start.end()
                continue
            instead = _in_place(tag, content, literals)
        pieces += [text[position : start.start()], instead]
        position = search_from = end
    pieces.append(text[position:])
    return "".join(pieces), literals


def put_back(text: str, literals: list[str]) -> str:
    """Literal contents in the places where their marks still stand."""
    return _KEPT.sub(lambda match: literals[int(match[1])], text) if literals else text


def _behind_comment(text: str, position: int) -> int:
    end = text.find("-->", position)
    return end + 3 if end >= 0 else len(text)


def _content(text: str, position: int, tag: str, unclosed: set[str]) -> tuple[str, int]:
    """(content of an extension tag whose name ends at `position`, the place behind it); -1 where it has no end."""
    attributes = _ATTRIBUTES.match(text, position)
    if not attributes:
        return "", -1
    start = attributes.end()
    if text[start - 2] == "/":
        return "", start
    closing = None if tag in unclosed else _closing(tag).search(text, start)
    if not closing:
        unclosed.add(tag)
        return "", -1
    return text[start : closing.start()], closing.end()


@functools.cache
def _closing(tag: str) -> re.Pattern[str]:
    return re.compile(rf"</{tag}\s*>", re.IGNORECASE)


def _in_place(tag: str, content: str, literals: list[str]) -> str:
    if tag != "nowiki" and tag not in _BLOCKS:
        return REMOVED
    literals.append(html.unescape(content).strip("\n"))
    mark = f"\x02{len(literals) - 1}\x03"
    return f"\n{mark}\n" if tag in _BLOCKS else mark
