"""Being asked to stop: SIGTERM, SIGUSR1, and a time limit.

A signal only raises a flag. The processes vote in the sum that each step makes anyway, so that all of them leave
after the same step, whichever of them was asked; then the run saves and ends with the exit code `REQUEUE`.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from types import FrameType
from typing import ClassVar

import psutil

from retrieva_pretrain.training.distributed import sum_over_processes

# Held back from the time limit while nothing has been measured: a share of it, and at most so many seconds.
_UNKNOWN_SHARE, _UNKNOWN_SECONDS = 0.1, 120.0
# Saves and steps vary; what they took at most is multiplied by this.
_SAFETY = 1.5


class Stopped(Exception):  # noqa: N818
    """The run was asked to stop and has saved; no error, which is why it is not named one."""

    def __init__(self, reason: str, step: int) -> None:
        super().__init__(f"stopped after step {step}: {reason}")
        self.reason = reason
        self.step = step


class StopRequests:
    """Listens for the requests of one process and counts those of all."""

    REASONS: ClassVar[tuple[str, ...]] = ("SIGTERM", "SIGUSR1", "the time limit")

    def __init__(self, exit_before: float | None = None) -> None:
        """Take over SIGTERM and SIGUSR1 for the rest of this process's life.

        `exit_before`: seconds since this process was started, before which the run must have saved and left.
        """
        self._asked = [False] * len(self.REASONS)
        self._limit = exit_before
        self._started = psutil.Process().create_time()
        self._step_seconds = 0.0
        self._first_step_seconds = 0.0
        self._save_seconds = 0.0
        self._evaluation_seconds = 0.0
        self._stage_begins = self._evaluation_comes = False
        signal.signal(signal.SIGTERM, self._hear)
        signal.signal(signal.SIGUSR1, self._hear)

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        self._asked[0 if number == signal.SIGTERM else 1] = True

    def note(self, step_seconds: float, save_seconds: float, *, is_first: bool) -> None:
        """Remember the slowest step and the slowest save (0 before the first): both must fit before the limit.

        `is_first`: whether it was the first step of this process or of a stage. Such a step allocates and compiles,
        and takes many times as long as others; it counts only where another one like it may come.
        """
        if is_first:
            self._first_step_seconds = max(self._first_step_seconds, step_seconds)
        else:
            self._step_seconds = max(self._step_seconds, step_seconds)
        self._save_seconds = save_seconds

    def note_evaluation(self, seconds: float) -> None:
        """Remember the slowest evaluation, the one that was expected."""
        self._evaluation_seconds = max(self._evaluation_seconds, seconds)
        self._evaluation_comes = False

    def expect(self, *, stage_begins: bool, evaluation_comes: bool) -> None:
        """Say what comes after the next step, before the vote of the step after that can be cast."""
        self._stage_begins = stage_begins
        self._evaluation_comes = evaluation_comes

    def votes(self) -> list[float]:
        """Return what this process adds to the sum over processes: one number a reason, 1 where it was asked."""
        if self._limit is not None:
            unknown = min(_UNKNOWN_SHARE * self._limit, _UNKNOWN_SECONDS)
            left = self._limit - (time.time() - self._started)
            self._asked[2] = self._asked[2] or left < _SAFETY * self._seconds_to_leave() + (
                0 if self._save_seconds else unknown
            )
        return [float(asked) for asked in self._asked]

    def _seconds_to_leave(self) -> float:
        """Return how long it may take from a vote that is just not cast to the end of the last save."""
        # A vote is cast within a step and obeyed at its end: the rest of this step and the whole of the next may pass.
        # A save that is at work is finished before the last one begins.
        step = self._step_seconds or self._first_step_seconds
        following = max(step, self._first_step_seconds) if self._stage_begins else step
        evaluation = self._evaluation_seconds if self._evaluation_comes else 0.0
        return step + following + evaluation + 2 * self._save_seconds

    @classmethod
    def decided(cls, sums: Sequence[float]) -> str | None:
        """Return why all processes stop, from the sums of their votes, or None."""
        return next((reason for reason, count in zip(cls.REASONS, sums, strict=True) if count), None)

    def decide(self) -> str | None:
        """Ask all processes now; for pauses between steps, where no other sum carries the votes."""
        return self.decided(sum_over_processes(self.votes()))
