"""A table of a page, and how figures stand in it."""

from __future__ import annotations

from dataclasses import dataclass

NONE = "–"
"""What is not known where the page is made."""


@dataclass
class Table:
    """A table of a page; cells are text, escaped where they are written."""

    headings: list[str]
    rows: list[list[str]]
    text_columns: frozenset[int] = frozenset({0})
    """Set to the left, the others are figures."""

    note: str = ""


def count(number: float) -> str:
    """Return a large number with its unit: 187.3 B."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size * 0.99995:
            return f"{number / size:.1f} {unit}"
    return f"{number:,.0f}"
