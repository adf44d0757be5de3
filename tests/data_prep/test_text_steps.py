"""Each step does what was declared, is counted, and none is taken that was not."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from data_prep.text_steps import TextCleaner, TextSteps

EVERYTHING = "ａ\x00\x1b①\u200b\ufeff \t\r\n\u3000\x85e\u0301"


def test_nothing_is_done_that_was_not_asked_for() -> None:
    assert TextCleaner(TextSteps())(EVERYTHING) == (EVERYTHING, EVERYTHING.encode(), None, ())


def test_half_a_character_is_replaced_in_any_case() -> None:
    cleaned = TextCleaner(TextSteps())("a\ud83db")
    assert cleaned == ("a\ufffdb", "a\ufffdb".encode(), None, ("lone_surrogate",))


@pytest.mark.parametrize(
    ("steps", "text", "expected", "dropped", "changed"),
    [
        ({"nfkc": True}, "ａ①", "a1", None, ("nfkc",)),
        ({"nfkc": True}, "a1あ", "a1あ", None, ()),
        ({"control_characters": "remove"}, "a\x00b\x85\t\n", "ab\t\n", None, ("control_characters",)),
        ({"control_characters": "drop_document"}, "a\x1b", "a\x1b", "control_characters", ()),
        ({"control_characters": "drop_document"}, "a\t\r\n", "a\t\r\n", None, ()),
        ({"min_characters": 2}, "あ", "あ", "too_short", ()),
        ({"min_characters": 2}, "あい", "あい", None, ()),
        ({"max_characters": 2}, "あいう", "あいう", "too_long", ()),
        ({"max_characters": 2}, "あい", "あい", None, ()),
        (
            {"control_characters": "remove", "min_characters": 2},
            "a\x00",
            "a",
            "too_short",
            ("control_characters",),
        ),
        ({"nfkc": True, "max_characters": 2}, "㍿", "株式会社", "too_long", ("nfkc",)),
    ],
)
def test_each_step(
    steps: dict[str, Any], text: str, expected: str, dropped: str | None, changed: Any
) -> None:
    assert TextCleaner(TextSteps(**steps))(text) == (expected, expected.encode(), dropped, changed)


@pytest.mark.parametrize(
    "steps", [{"min_characters": 3, "max_characters": 2}, {"min_characters": -1}, {"nkfc": True}, {"nfkc": 1}]
)
def test_impossible_steps_are_refused(steps: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TextSteps(**steps)
