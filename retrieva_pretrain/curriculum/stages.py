"""The stages of a run over its steps.

A step number counts the optimizer steps already done: `step` 0 is the first step of the run, and the run has
ended at `step == total_steps`. Tokens are positions, samples x sequence length, as Megatron counts them.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate

from retrieva_pretrain.recipe.schema import Recipe, Stage


@dataclass(frozen=True)
class StagePosition:
    """Where one step lies."""

    index: int
    """Number of the stage, from 0."""

    stage: Stage
    start_step: int
    """First step of the stage."""

    step_in_stage: int

    @property
    def seq_length(self) -> int:
        """Length of the stage's samples in tokens."""
        return self.stage.seq_length


class Curriculum:
    """The arithmetic of a recipe's stages; every answer is O(log stages)."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._ends = list(accumulate(stage.train_iters for stage in recipe.curriculum))
        per_stage = [recipe.global_batch_size * s.seq_length * s.train_iters for s in recipe.curriculum]
        self._tokens_at_end = list(accumulate(per_stage))

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self._ends[-1]

    @property
    def total_samples(self) -> int:
        """Samples of the whole run."""
        return self.total_steps * self.recipe.global_batch_size

    @property
    def total_tokens(self) -> int:
        """Positions of the whole run."""
        return self._tokens_at_end[-1]

    def at(self, step: int) -> StagePosition:
        """Return the stage of the 0-based step.

        Raises IndexError for a step outside the run.
        """
        if not 0 <= step < self.total_steps:
            raise IndexError(f"step {step} is outside the run of {self.total_steps} steps")
        index = bisect_right(self._ends, step)
        start, _ = self.stage_steps(index)
        return StagePosition(index, self.recipe.curriculum[index], start, step - start)

    def stage_steps(self, index: int) -> tuple[int, int]:
        """Return the first step of a stage and the first step after it."""
        return (self._ends[index - 1] if index else 0), self._ends[index]

    def consumed_samples(self, step: int) -> int:
        """Return the samples that `step` steps have used; steps past the end use none.

        Raises IndexError for a negative step.
        """
        if step < 0:
            raise IndexError(f"step {step} is before the run")
        return min(step, self.total_steps) * self.recipe.global_batch_size

    def consumed_tokens(self, step: int) -> int:
        """Return the positions that `step` steps have used; steps past the end use none.

        Raises IndexError for a negative step.
        """
        if step >= self.total_steps:
            return self.total_tokens
        here = self.at(step)
        before = self._tokens_at_end[here.index - 1] if here.index else 0
        return before + here.step_in_stage * self.recipe.global_batch_size * here.seq_length
