"""Text hygiene as declared steps: nothing is done that the corpus file does not ask for.

The one exception is half a character (a lone surrogate, which JSON can spell): it has no UTF-8, no
tokenizer takes it, and it becomes U+FFFD, counted.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
# C0 and C1 controls; tab, line feed and carriage return lay out a text.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")

Limit = Annotated[int, Field(ge=0)]


class TextSteps(BaseModel):
    """The steps, in the order they are taken.

    - `nfkc`: Unicode normalisation form KC
    - `control_characters`: C0 and C1 controls, tab, line feed and carriage return aside, are kept, removed,
      or the document is dropped for them
    - `min_characters`, `max_characters`: documents outside are dropped; characters after the other steps
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    nfkc: bool = False
    control_characters: Literal["keep", "remove", "drop_document"] = "keep"
    min_characters: Limit | None = None
    max_characters: Limit | None = None

    @model_validator(mode="after")
    def _min_below_max(self) -> TextSteps:
        if None not in (self.min_characters, self.max_characters):
            assert self.min_characters is not None and self.max_characters is not None
            if self.min_characters > self.max_characters:
                raise ValueError("min_characters is above max_characters: every document would be dropped")
        return self


class Cleaned(NamedTuple):
    """A text after the steps, its UTF-8, why it is dropped, where it is, and which steps changed it."""

    text: str
    utf8: bytes
    dropped: str | None
    changed: tuple[str, ...]


class TextCleaner:
    """Takes the steps of a `TextSteps` on one text after another; threads may share it."""

    def __init__(self, steps: TextSteps) -> None:
        self._steps = steps
        self._least = steps.min_characters or 0
        self._most = steps.max_characters

    def __call__(self, text: str) -> Cleaned:
        """The text after the steps."""
        changed: tuple[str, ...] = ()
        # Encoding is faster than a search for half a character, which it refuses; and the UTF-8 is needed.
        try:
            utf8 = text.encode()
        except UnicodeEncodeError:
            text = _LONE_SURROGATE.sub("\ufffd", text)
            utf8 = text.encode()
            changed += ("lone_surrogate",)
        if self._steps.nfkc and not unicodedata.is_normalized("NFKC", text):
            text = unicodedata.normalize("NFKC", text)
            utf8 = text.encode()
            changed += ("nfkc",)
        if self._steps.control_characters != "keep" and _CONTROL.search(text):
            if self._steps.control_characters == "drop_document":
                return Cleaned(text, utf8, "control_characters", changed)
            text = _CONTROL.sub("", text)
            utf8 = text.encode()
            changed += ("control_characters",)
        return Cleaned(text, utf8, self._length_reason(text), changed)

    def _length_reason(self, text: str) -> str | None:
        if len(text) < self._least:
            return "too_short"
        if self._most is not None and len(text) > self._most:
            return "too_long"
        return None
