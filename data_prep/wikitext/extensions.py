"""Comments and extension tags, taken out before the wikitext is parsed, as MediaWiki itself does.

What stands inside `<nowiki>` or `<math>` is not wikitext: parsed as such it would unbalance the page.
"""

from __future__ import annotations

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
_TAG = re.compile(
    rf"<!--.*?(?:-->|\Z)|<({_REMOVED}|{_LITERAL})\b((?:\"[^\"\n]*\"|'[^'\n]*'|[^<>\"'])*?)(?:/>|>(.*?)</\1\s*>)",
    re.DOTALL | re.IGNORECASE,
)
# None of these characters may stand in XML, so no page holds them.
REMOVED = "\x04"
"""Where something was removed, so that the brackets and spaces round it can go as well."""

_KEPT = re.compile("\x02(\\d+)\x03")
_OURS = re.compile("[\x02-\x04]")
_BLOCKS = frozenset({"pre", "syntaxhighlight", "source"})


def take_out(text: str) -> tuple[str, list[str]]:
    """(text without comments and extension tags, literal contents that `put_back` puts in their places)."""
    literals: list[str] = []

    def replace(match: re.Match[str]) -> str:
        tag = (match.group(1) or "").lower()
        if not tag:
            return ""
        if tag not in ("nowiki", *_BLOCKS):
            return REMOVED
        content = html.unescape(match.group(3) or "")
        literals.append(content.strip("\n"))
        mark = f"\x02{len(literals) - 1}\x03"
        return f"\n{mark}\n" if tag in _BLOCKS else mark

    return _TAG.sub(replace, _OURS.sub("", text)), literals


def put_back(text: str, literals: list[str]) -> str:
    """Literal contents in the places where their marks still stand."""
    return _KEPT.sub(lambda match: literals[int(match.group(1))], text)
