"""Steps that would do harm are skipped: not finite, or with a gradient far beyond the usual.

Decided from figures that are the same on every process, before the optimizer's step. The schedule and the data
move on, so a run that resumes takes the same decisions: what they rest on is part of each checkpoint.
"""

from __future__ import annotations

import math
from collections import deque
from statistics import median
from typing import Any

from retrieva_pretrain.errors import SkippedStepsError
from retrieva_pretrain.recipe.schema import FaultsConfig


class SkipPolicy:
    """Judges each step by its loss and gradient norm, and counts the skipped ones."""

    def __init__(self, config: FaultsConfig) -> None:
        self.config = config
        self.skipped = 0
        """Steps skipped in the whole run."""

        self.in_a_row = 0
        self._norms: deque[float] = deque(maxlen=config.grad_norm_window)

    def judge(self, loss: float, grad_norm: float | None) -> str | None:
        """Return why a step must not be taken, or None.

        `grad_norm` is None where it was not asked for, because the loss had decided already. The norm is compared
        with the median of the last `grad_norm_window` steps that were taken, once there are so many.
        """
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if grad_norm is None:
            return None
        if not math.isfinite(grad_norm):
            return f"the gradient norm is {grad_norm}"
        factor = self.config.max_grad_norm_factor
        if factor is None or len(self._norms) < self.config.grad_norm_window:
            return None
        usual = median(self._norms)
        if grad_norm > factor * usual:
            return (
                f"the gradient norm {grad_norm:.4g} is over {factor:g} times {usual:.4g}, the median of the last"
                f" {len(self._norms)} steps"
            )
        return None

    def took(self, grad_norm: float) -> None:
        """Note a step that was taken."""
        self.in_a_row = 0
        self._norms.append(grad_norm)

    def skip(self) -> None:
        """Note a step that was skipped."""
        self.skipped += 1
        self.in_a_row += 1

    def refuse_endless(self, step: int, reason: str) -> None:
        """Raise SkippedStepsError where so many steps in a row were skipped that waiting will not help."""
        if self.in_a_row < self.config.max_consecutive_skips:
            return
        raise SkippedStepsError(
            f"{self.in_a_row} steps in a row were skipped, the last one, step {step + 1}, because {reason}."
            " The weights are those of the last step that was taken; skips.jsonl in the run's folder names the"
            " documents of every skipped batch. Look at them, at optimizer.lr and at the gradient norms before"
            " the first skip; remove the newest checkpoints to go back behind it."
        )

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must remember; Python's JSON keeps every bit of a float."""
        return {"skipped": self.skipped, "in_a_row": self.in_a_row, "grad_norms": list(self._norms)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up a checkpoint's state; an empty one is that of a new run."""
        self.skipped = int(state.get("skipped", 0))
        self.in_a_row = int(state.get("in_a_row", 0))
        self._norms = deque(map(float, state.get("grad_norms", [])), maxlen=self.config.grad_norm_window)
