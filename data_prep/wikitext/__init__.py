"""Wikitext to the plain text a reader of the page sees, without what surrounds the running text."""

from __future__ import annotations

import re
from typing import NamedTuple

from data_prep.wikitext.extensions import REMOVED, put_back, take_out
from data_prep.wikitext.nesting import cut_nested
from data_prep.wikitext.variants import resolve_variants

# A run of blanks is matched from its start alone: from each of its blanks, a long one would take minutes.
_BLANKS = r"(?<![ \t])[ \t]+"
# Between brackets that held removed things: nothing, or the punctuation that joined them.
_HOLLOW = rf"[\s,;:/、，；：。·{REMOVED}]*"
_EMPTY_BRACKETS = re.compile(
    rf"(?:{_BLANKS})?(?:\((?=[^()]*{REMOVED}){_HOLLOW}\)|（(?=[^（）]*{REMOVED}){_HOLLOW}）)"
)
# Between an opening bracket and the first word: the separator of something removed.
_LEADING_SEPARATOR = re.compile(rf"([(（]){REMOVED}[ \t{REMOVED}]*[,;、，；][\s,;、，；]*")
# And between the last word and the closing bracket.
_TRAILING_SEPARATOR = re.compile(rf"[,;、，；][ \t]*{REMOVED}[ \t{REMOVED}]*(?=[)）])")
_SPACE_BEFORE_PUNCTUATION = re.compile(rf"{_BLANKS}{REMOVED}+[ \t]*(?=[,.;:)])")
_DOUBLE_SPACE = re.compile(rf"[ \t]{REMOVED}+[ \t]")
_TRAILING_SPACE = re.compile(rf"{_BLANKS}$", re.MULTILINE)
_LEADING_SPACE = re.compile(r"^[ \t]+", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n{3,}")
# A table that is never closed, or closed twice, is no table to the parser.
_TABLE_LINE = re.compile(r"^(?:\{\||\|\}|\|-).*$\n?", re.MULTILINE)


class Cleaned(NamedTuple):
    """The text of a page, and the title its language conversion sets, if it does."""

    text: str
    title: str | None


def clean_wikitext(wikitext: str, *, removed: frozenset[str], variant: str | None = None) -> Cleaned:
    """The running text of a page: section titles on lines of their own, paragraphs apart.

    `removed` holds the namespace names whose links leave nothing (`namespaces.removed_names`); with a
    `variant`, Chinese language conversion is resolved to it.
    Raises `mwparserfromhell.parser.ParserError` where the parser gives up on a page, and
    `render.UnbalancedError` where the markup is hopeless.
    """
    from data_prep.wikitext.render import render

    text, literals = take_out(wikitext)
    title = None
    if variant is not None:
        text, title = resolve_variants(text, variant)
    text = _TABLE_LINE.sub("", render(cut_nested(text), removed))
    text = _TRAILING_SEPARATOR.sub(REMOVED, _LEADING_SEPARATOR.sub(r"\1", text))
    # Twice: brackets inside brackets.
    text = _EMPTY_BRACKETS.sub(REMOVED, _EMPTY_BRACKETS.sub(REMOVED, text))
    text = _DOUBLE_SPACE.sub(" ", _SPACE_BEFORE_PUNCTUATION.sub("", text)).replace(REMOVED, "")
    text = _LEADING_SPACE.sub("", _TRAILING_SPACE.sub("", text))
    text = _BLANK_LINES.sub("\n\n", put_back(text, literals))
    return Cleaned(text.strip(), title)
