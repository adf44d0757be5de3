"""Chinese language conversion: `-{zh-hans:计算机;zh-hant:電腦}-` resolved to one written variant.

Only the markup is resolved. The conversion tables MediaWiki applies to the running text on display
are not: a dump's text stays in the characters its authors typed.
"""

from __future__ import annotations

import re
from typing import NamedTuple

# Where a rule has nothing for the variant asked for, the nearest written form is taken.
FALLBACKS: dict[str, tuple[str, ...]] = {
    "zh-hans": ("zh-cn", "zh-sg", "zh-my"),
    "zh-hant": ("zh-tw", "zh-hk", "zh-mo"),
    "zh-cn": ("zh-hans", "zh-sg", "zh-my"),
    "zh-sg": ("zh-my", "zh-hans", "zh-cn"),
    "zh-my": ("zh-sg", "zh-hans", "zh-cn"),
    "zh-tw": ("zh-hant", "zh-hk", "zh-mo"),
    "zh-hk": ("zh-mo", "zh-hant", "zh-tw"),
    "zh-mo": ("zh-hk", "zh-hant", "zh-tw"),
}

_CODES = "|".join(["zh", *FALLBACKS])
# `-{{{` opens a conversion round a template; `-{{` is a hyphen before a template.
_TOKEN = re.compile(r"-\{(?!\{(?!\{))|\{\{|\}\}|\}-")
_FLAGS = frozenset({"", *"ATRDHNS+-", "ZH", *(code.upper() for code in FALLBACKS)})
# A rule starts after a semicolon that a variant's name follows; semicolons inside a text (`&nbsp;`) do not.
_RULE = re.compile(rf"(?:^|;)\s*(?:[^;:\s][^;:]*?=>\s*)?({_CODES})\s*:", re.I)
_HIDDEN = frozenset("HT+-N")
# Conversions inside conversions: the text of the innermost is read once a level. MediaWiki allows ten.
_DEEPEST = 10


class Conversion(NamedTuple):
    """What a `-{...}-` shows, and the page title it sets, if it does."""

    shown: str
    title: str | None


class Resolved(NamedTuple):
    """A text without conversion markup, and the page title it sets, if it does."""

    text: str
    title: str | None


def resolve_variants(text: str, variant: str) -> Resolved:
    """Replace every `-{...}-`, innermost first, in one pass; an unclosed one stays as it is."""
    pieces: list[str] = []
    # What is open: its token, and where in the pieces its inside starts.
    opened: list[tuple[str, int]] = []
    title = None
    position = conversions = 0
    while token := _TOKEN.search(text, position):
        kind, start = token.group(), token.start()
        pieces.append(text[position:start])
        position = token.end()
        opening = opened[-1][0] if opened else ""
        if kind == "{{" or (kind == "-{" and conversions < _DEEPEST):
            conversions += kind == "-{"
            pieces.append(kind)
            opened.append((kind, len(pieces)))
        elif kind == "}}" and opening == "{{":
            opened.pop()
            pieces.append(kind)
        elif kind == "}-" and opening == "-{":
            _, inside = opened.pop()
            conversions -= 1
            conversion = convert("".join(pieces[inside:]), variant)
            pieces[inside - 1 :] = [conversion.shown]
            title = conversion.title or title
        else:
            # One character on: the second brace of an unmatched `}}` may close a conversion.
            position = start + 1
            pieces.append(text[start:position])
    pieces.append(text[position:])
    return Resolved("".join(pieces), title)


def convert(content: str, variant: str) -> Conversion:
    """The inside of one `-{...}-`: flags, then rules or a plain text.

    R shows its text as it is; T sets the title; H, + and - change rules for the page and show nothing;
    A and D show the variant's text; a variant's name as a flag protects the text.
    """
    head, bar, body = content.partition("|")
    flags = {flag.strip().upper() for flag in head.split(";")}
    if not bar or not flags <= _FLAGS:
        flags, body = set(), content
    if "R" in flags:
        return Conversion(body, None)
    shown = _choose(body, variant)
    title = shown.strip() or None if "T" in flags else None
    return Conversion("" if flags & _HIDDEN else shown, title)


def _choose(body: str, variant: str) -> str:
    rules = list(_RULE.finditer(body))
    if not rules or body[: rules[0].start()].strip():
        return body
    texts: dict[str, str] = {}
    for rule, following in zip(rules, [*rules[1:], None], strict=True):
        end = following.start() if following else len(body)
        texts.setdefault(rule.group(1).lower(), body[rule.end() : end].strip().removesuffix(";"))
    for code in (variant, *FALLBACKS.get(variant, ()), "zh"):
        if code in texts:
            return texts[code]
    return next(iter(texts.values()))
