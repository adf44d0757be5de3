"""Torch's profiler round chosen steps of a run; the steps compute what they would without it.

A step of the 1.3 B recipe has up to 128 micro-batches, each of some thousands of kernels and ten times as many events
of the host: gigabytes of trace. Therefore it begins with the last micro-batches of the first chosen step, so that it
holds forward and backward passes, the gradients' reduction, the norm and the update, and goes on into the steps after
it, but not beyond a number of micro-batches. Operators and kernels with their times are recorded, no shapes and no
stacks.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from torch.profiler import profile

from retrieva_pretrain import platform
from retrieva_pretrain.training.profiled_steps import ProfiledSteps
from retrieva_pretrain.training.saying import say

FOLDER = "profile"
_FROM_END = 4
_AT_MOST = 16


class StepProfiler:
    """Writes one Chrome trace of the chosen steps into the run's folder; one process of the run has one."""

    def __init__(self, run: Path, steps: ProfiledSteps) -> None:
        self._steps = steps
        self._folder = run / FOLDER
        self._profile: profile | None = None
        self._first = 0
        self._watched = 0
        self._is_recording = False

    def before_micro_batch(self, step: int, number: int, count: int) -> None:
        """Begin or end, where it is time before micro-batch `number` of the `count` of the 0-based step `step`."""
        if not self._steps.first <= step + 1 <= self._steps.last:
            return
        if self._profile is None and not self._first and number >= count - _FROM_END:
            self._first = step + 1
            self._profile = profile(activities=platform.current().profiler_activities())
            self._profile.start()
            self._is_recording = True
        if self._is_recording:
            self._watched += 1
            if self._watched > _AT_MOST:
                self._stop()

    def after_step(self, done: int) -> None:
        """Write, where the last of the steps is done or enough was recorded."""
        if done >= self._steps.last or not self._is_recording:
            self._write(done)

    def close(self, done: int) -> None:
        """End and write what there is of steps that the run did not come to the end of; say if there is nothing."""
        self._write(done)
        if not self._first:
            say(f"no trace: this start took none of the steps {self._steps.first} to {self._steps.last}")

    def _stop(self) -> None:
        if self._profile is not None and self._is_recording:
            platform.current().synchronize()  # what was queued last belongs to the trace
            self._profile.stop()
            self._is_recording = False

    def _write(self, last: int) -> None:
        if self._profile is None:
            return
        self._stop()
        watched, self._profile = self._profile, None
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
