"""Which steps `retrieva train --profile` watches. No torch: a wrong range is refused before it is loaded."""

from __future__ import annotations

import re
from dataclasses import dataclass

from retrieva_pretrain.errors import RetrievaError
from retrieva_pretrain.recipe.schema import Recipe


@dataclass(frozen=True)
class ProfiledSteps:
    """Steps by the numbers that the log shows: the first step of the run is 1."""

    first: int
    last: int

    @classmethod
    def parse(cls, text: str, recipe: Recipe) -> ProfiledSteps:
        """Read `10-12` or `10`.

        Raises:
            RetrievaError: it is neither, or the run has no such steps.
        """
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
        total = recipe.total_steps
        steps = cls(int(match[1]), int(match[2] or match[1])) if match else cls(0, 0)
        if not 1 <= steps.first <= steps.last <= total:
            raise RetrievaError(
                f"--profile {text}: write steps as the log counts them, from 1 to the run's last, {total}, such as"
                " 10-12 or 10"
            )
        return steps
