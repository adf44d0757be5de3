"""What the sections of a recipe are made of: kinds of values, and how a section refuses."""

from __future__ import annotations

import unicodedata
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


def _plain_text(text: str) -> str:
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
        raise ValueError("contains a control character; write plain text")
    return text


def _whole(value: object) -> object:
    """Return 40e9 as the whole number it is: nobody writes ten zeros without a slip."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


# Megatron counts in 32 bits in places, and no run comes near.
PositiveInt = Annotated[int, Field(gt=0, lt=2**31)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
MaskingRate = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
TokenBudget = Annotated[int, Field(gt=0, lt=2**62), BeforeValidator(_whole)]
PlainText = Annotated[str, Field(min_length=1), AfterValidator(_plain_text)]


class Section(BaseModel):
    """A mapping of a recipe: unknown keys are refused and values are not converted between kinds."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


S = TypeVar("S", bound=Section)


def refuse(section: S, problems: list[str]) -> S:
    """Return the section, or raise ValueError where there are problems, a line `field: what is wrong` each."""
    if problems:
        raise ValueError("\n".join(problems))
    return section
