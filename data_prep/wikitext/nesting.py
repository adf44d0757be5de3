"""Templates and tables, which leave no text, cut out before the parser sees the page.

They are half of a page's bytes and most of the parser's work, and pages with thousands of unclosed ones
take it minutes. One pass over the braces, in time linear in the page, finds those that are closed; what
is not closed is left to the parser.
"""

from __future__ import annotations

import re

from data_prep.wikitext.extensions import REMOVED

_TOKEN = re.compile(r"\{{2,}|\}{2,}|^[ \t:;*#]*\{\|(?!\})|^[ \t]*\|\}(?!\})", re.MULTILINE)


# Templates left open in one table cell; looking further back would be quadratic in a page of nothing else.
_DEEP = 50


def cut_nested(text: str) -> str:
    """The text without closed templates and parameters (`REMOVED` in their places) and closed tables."""
    regions = _regions(text)
    if not regions:
        return text
    pieces = []
    position = 0
    for start, end, is_table in regions:
        pieces += [text[position:start], "" if is_table else REMOVED]
        position = end
    pieces.append(text[position:])
    return "".join(pieces)


def _regions(text: str) -> list[tuple[int, int, bool]]:
    """(start, end, whether it is a table) of the outermost closed ones, in order."""
    # What is open: where its braces start, how many they are (0: a table), how many regions stood before it.
    opened: list[tuple[int, int, int]] = []
    regions: list[tuple[int, int, bool]] = []
    for token in _TOKEN.finditer(text):
        found, start = token.group(), token.start()
        if found[-1] == "|":
            opened.append((token.end() - 2, 0, len(regions)))
        elif found[-1] == "{":
            opened.append((start, len(found), len(regions)))
        elif found[0] == "}":
            _close_braces(opened, regions, start, len(found))
        else:
            _close_table(opened, regions, token.end())
    return regions


def _close_braces(
    opened: list[tuple[int, int, int]], regions: list[tuple[int, int, bool]], start: int, count: int
) -> None:
    while count >= 2 and opened:
        place, braces, before = opened.pop()
        if not braces:
            # A table left open inside a template ends with it.
            continue
        # `{{{{a}}b}}`: the inner ones are the last to open.
        taken = min(braces, count)
        regions[before:] = [(place + braces - taken, start + taken, False)]
        start, count = start + taken, count - taken
        if braces - taken >= 2:
            opened.append((place, braces - taken, before))


def _close_table(opened: list[tuple[int, int, int]], regions: list[tuple[int, int, bool]], end: int) -> None:
    """Close the innermost table; a template left open inside it ends with it."""
    for number in range(len(opened) - 1, max(-1, len(opened) - _DEEP), -1):
        place, braces, before = opened[number]
        if not braces:
            regions[before:] = [(place, end, True)]
            del opened[number:]
            return
