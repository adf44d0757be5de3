"""Templates and tables, which leave no text, cut out: half of a page's bytes and most of a parser's work.

One pass over the braces, in time linear in the page, finds those that are closed; what is not closed
stays as it is.
"""

from __future__ import annotations

import re

from data_prep.wikitext.extensions import REMOVED

_TOKEN = re.compile(r"\{{2,}|\}{2,}|\{\|(?!\})|\|\}(?!\})")
# What may stand before a table's first and last sign on their line, and how much of it.
_BEFORE_TABLE = " \t:;*#"
_INDENT = 20
_HTML_TABLE = re.compile(r"<(/?)table\b[^<>]*>", re.IGNORECASE)
# Templates left open in one table cell; looking further back would be quadratic in a page of nothing else.
_DEEP = 50
# (start, end, what stands in its place)
_Region = tuple[int, int, str]
# What is open: where its braces start, how many they are (0: a table), how many regions stood before it.
_Opened = tuple[int, int, int]


def cut_nested(text: str) -> str:
    """The text without closed templates and parameters (`REMOVED` in their places) and closed tables."""
    if "{{" in text or "{|" in text:
        text = _without(text, _regions(text))
    if "<table" in text or "<TABLE" in text:
        text = _without(text, _html_tables(text))
    return text


def _without(text: str, regions: list[_Region]) -> str:
    pieces = []
    position = 0
    for start, end, instead in regions:
        pieces += [text[position:start], instead]
        position = end
    pieces.append(text[position:])
    return "".join(pieces)


def _regions(text: str) -> list[_Region]:
    """The outermost closed templates and tables, in order."""
    opened: list[_Opened] = []
    regions: list[_Region] = []
    for token in _TOKEN.finditer(text):
        start, end = token.span()
        first = text[start]
        if first == "}":
            _close_braces(opened, regions, start, end - start)
        elif text[end - 1] == "{":
            opened.append((start, end - start, len(regions)))
        elif not _begins_line(text, start):
            continue
        elif first == "{":
            opened.append((start, 0, len(regions)))
        else:
            _close_table(opened, regions, end)
    return regions


def _begins_line(text: str, position: int) -> bool:
    line = text.rfind("\n", max(0, position - _INDENT), position)
    if line < 0 and position > _INDENT:
        return False
    return not text[line + 1 : position].strip(_BEFORE_TABLE)


def _close_braces(opened: list[_Opened], regions: list[_Region], start: int, count: int) -> None:
    while count >= 2 and opened:
        place, braces, before = opened.pop()
        if not braces:
            # A table left open inside a template ends with it.
            continue
        # `{{{{a}}b}}`: the inner ones are the last to open.
        taken = min(braces, count)
        regions[before:] = [(place + braces - taken, start + taken, REMOVED)]
        start, count = start + taken, count - taken
        if braces - taken >= 2:
            opened.append((place, braces - taken, before))


def _close_table(opened: list[_Opened], regions: list[_Region], end: int) -> None:
    """Close the innermost table; a template left open inside it ends with it."""
    for number in range(len(opened) - 1, max(-1, len(opened) - _DEEP), -1):
        place, braces, before = opened[number]
        if not braces:
            regions[before:] = [(place, end, "")]
            del opened[number:]
            return


def _html_tables(text: str) -> list[_Region]:
    opened: list[tuple[int, int]] = []
    regions: list[_Region] = []
    for tag in _HTML_TABLE.finditer(text):
        if not tag[1]:
            opened.append((tag.start(), len(regions)))
        elif opened:
            start, before = opened.pop()
            regions[before:] = [(start, tag.end(), "")]
    return regions
