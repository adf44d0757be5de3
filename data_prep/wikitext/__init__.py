"""Wikitext to the plain text a reader of the page sees, without what surrounds the running text."""

from __future__ import annotations

import re
from typing import NamedTuple

from data_prep.wikitext.extensions import REMOVED, put_back, take_out
from data_prep.wikitext.nesting import cut_nested
from data_prep.wikitext.render import render
from data_prep.wikitext.variants import resolve_variants

# Between brackets that held removed things: nothing, or the punctuation that joined them.
_HOLLOW = rf"[\s,;:/、，；：。·{REMOVED}]*"
_EMPTY_BRACKETS = re.compile(rf"\((?=[^()]*{REMOVED}){_HOLLOW}\)|（(?=[^（）]*{REMOVED}){_HOLLOW}）")
# Between an opening bracket and the first word: the separator of something removed.
_LEADING_SEPARATOR = re.compile(rf"([(（])[ \t]*{REMOVED}[ \t{REMOVED}]*[,;、，；][\s,;、，；{REMOVED}]*")
# And between the last word and the closing bracket.
_TRAILING_SEPARATOR = re.compile(rf"[,;、，；][ \t]*{REMOVED}[ \t{REMOVED}]*(?=[)）])")
_REMOVED_RUN = re.compile(f"{REMOVED}+")
_NO_SPACE_BEFORE = frozenset(",.;:)")
_BLANK = " \t"
# No page of MediaWiki holds this character; where brackets were removed.
_GONE = "\x05"
# A table that is never closed, or closed twice, is no table.
_TABLE_LINE = re.compile(r"^(?:\{\||\|\}|\|-).*$\n?", re.MULTILINE)


class Cleaned(NamedTuple):
    """The text of a page, and the title its language conversion sets, if it does."""

    text: str
    title: str | None


def clean_wikitext(wikitext: str, *, removed: frozenset[str], variant: str | None = None) -> Cleaned:
    """The running text of a page: section titles on lines of their own, paragraphs apart.

    `removed` holds the namespace names whose links leave nothing (`namespaces.removed_names`); with a
    `variant`, Chinese language conversion is resolved to it.
    Takes time in proportion to the length of the page.
    """
    text, literals = take_out(wikitext)
    title = None
    if variant is not None:
        text, title = resolve_variants(text, variant)
    text = _TABLE_LINE.sub("", render(cut_nested(text), removed))
    if REMOVED in text:
        text = _close_gaps(text)
    text = "\n".join([line.strip(_BLANK) for line in text.split("\n")])
    text = put_back(text, literals)
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    return Cleaned(text.strip(), title)


def _close_gaps(text: str) -> str:
    """The text without the marks of what was removed, and without the brackets and spaces that held nothing else."""
    text = _TRAILING_SEPARATOR.sub(REMOVED, _LEADING_SEPARATOR.sub(rf"\1{REMOVED}", text))
    # Twice: brackets inside brackets.
    text = _without_empty_brackets(_without_empty_brackets(text))
    pieces = [""]
    for right in _REMOVED_RUN.split(text):
        left = pieces[-1]
        if left and left[-1] in _BLANK:
            rest = right.lstrip(_BLANK)
            if rest and rest[0] in _NO_SPACE_BEFORE:
                pieces[-1], right = left.rstrip(_BLANK), rest
            elif right and right[0] in _BLANK:
                pieces[-1] = left[:-1]
        pieces.append(right)
    return "".join(pieces)


def _without_empty_brackets(text: str) -> str:
    # The space before them goes with them. Looking for it by the same expression would be tried at every space.
    parts = _EMPTY_BRACKETS.sub(_GONE, text).split(_GONE)
    return REMOVED.join([*(part.rstrip(_BLANK) for part in parts[:-1]), parts[-1]])
