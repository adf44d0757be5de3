"""Torch's profiler round chosen steps of a run; the steps compute what they would without it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from torch.profiler import profile

from retrieva_pretrain import platform
from retrieva_pretrain.training.profiled_steps import ProfiledSteps
from retrieva_pretrain.training.saying import say

FOLDER = "profile"


class StepProfiler:
    """Writes one Chrome trace of the chosen steps into the run's folder; one process of the run has one."""

    def __init__(self, run: Path, steps: ProfiledSteps) -> None:
        self._steps = steps
        self._folder = run / FOLDER
        self._profile: profile | None = None
        self._first = 0

    def before_step(self, step: int) -> None:
        """Begin, where the step that follows `step` finished ones is the first of those still to come."""
        if self._profile is None and self._steps.first <= step + 1 <= self._steps.last:
            self._first = step + 1
            self._profile = profile(activities=platform.current().profiler_activities(), record_shapes=True)
            self._profile.start()

    def after_step(self, done: int) -> None:
        """End and write, where the last of the steps is done."""
        if done >= self._steps.last:
            self._write(done)

    def close(self, done: int) -> None:
        """End and write what there is of steps that the run did not come to the end of; say if there is nothing."""
        self._write(done)
        if not self._first:
            say(f"no trace: this start took none of the steps {self._steps.first} to {self._steps.last}")

    def _write(self, last: int) -> None:
        if self._profile is None:
            return
        watched, self._profile = self._profile, None
        watched.stop()
        self._folder.mkdir(parents=True, exist_ok=True)
        file = self._folder / f"steps_{self._first}-{last}.json"
        partial = file.with_name(f".{file.name}")
        try:
            watched.export_chrome_trace(str(partial))
            partial.replace(file)
        except (OSError, RuntimeError) as error:
            # A full disk must not end a run that trains.
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            say(f"WARNING: the trace {file} could not be written: {error}")
            return
        say(
            f"trace of steps {self._first} to {last}: {file} (open it in chrome://tracing or ui.perfetto.dev)"
        )
