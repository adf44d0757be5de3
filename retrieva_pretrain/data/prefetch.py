"""Micro-batches made ahead of the steps that read them, by a thread beside the training.

They are a function of their step alone, so who makes them and when changes nothing in them. What a micro-batch is
this module does not ask: the training has them made in host memory that the device can copy from. The thread ends
with `close`, when the curriculum ends, and when a sample cannot be made: that error is raised where the sample is
read.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

MicroBatch = TypeVar("MicroBatch")


class Prefetch(Generic[MicroBatch]):
    """One process's micro-batches of one step after another."""

    def __init__(self, make: Callable[[int], Iterator[MicroBatch]], total_steps: int, ahead: int) -> None:
        """Prepare to make micro-batches.

        Args:
            make: yields this process's micro-batches of a 0-based step, in the thread.
            total_steps: of the curriculum.
            ahead: how many micro-batches to keep ready; 0: no thread, each is made when it is read.
        """
        self._make = make
        self._total_steps = total_steps
        self._ahead = ahead
        self._maker: _Maker[MicroBatch] | None = None
        self.waited = 0.0
        """Seconds, in all, for which the reader had to wait."""

    def step(self, step: int) -> Iterator[MicroBatch]:
        """Yield the step's micro-batches.

        Steps are meant to be read in their order and to their ends; any other is made anew from its start.

        Raises:
            CorpusError: the corpus does not hold what the samples need.
        """
        if self._ahead and (self._maker is None or self._maker.next_step != step):
            self.close()
            self._maker = _Maker(self._make, step, self._total_steps, self._ahead)
        source = self._make(step) if self._maker is None else self._maker.read(step)
        while True:
            started = time.perf_counter()
            made = next(source, None)
            self.waited += time.perf_counter() - started
            if made is None:
                return
            yield made

    def close(self, most_seconds: float | None = None) -> None:
        """End the thread, if there is one, and wait until it has, but no longer than `most_seconds`."""
        if self._maker is not None:
            self._maker.close(most_seconds)
            self._maker = None


class _Maker(Generic[MicroBatch]):
    """The thread, and the micro-batches it has ready."""

    def __init__(self, make: Callable[[int], Iterator[MicroBatch]], step: int, end: int, ahead: int) -> None:
        """Begin to make the steps from `step` to before `end`, at most `ahead` micro-batches ahead of the reader."""
        self._make = make
        self._end = end
        self._ahead = ahead
        # What was made, and whether it is its step's last.
        self._ready: deque[tuple[MicroBatch | Exception, bool]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self.next_step: int | None = step
        """The step that is read next; None within a step."""

        self._thread = threading.Thread(target=self._run, args=(step,), name="prefetch", daemon=True)
        self._thread.start()

    def read(self, step: int) -> Iterator[MicroBatch]:
        """Yield what was made for `next_step`, which is `step`."""
        self.next_step, last = None, False
        while not last:
            with self._changed:
                self._changed.wait_for(lambda: self._ready or self._closed)
                if self._closed:
                    raise RuntimeError(f"the samples of step {step} are read after they were closed")
                made, last = self._ready.popleft()
                self._changed.notify_all()
            if isinstance(made, Exception):
                raise made
            if last:  # now: whoever knows their number never asks for one more
                self.next_step = step + 1
            yield made

    def close(self, most_seconds: float | None) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(most_seconds)

    def _run(self, first: int) -> None:
        try:
            for step in range(first, self._end):
                # One is held back, to tell the last of a step from the others.
                held: MicroBatch | None = None
                for made in self._make(step):
                    if held is not None and not self._put((held, False)):
                        return
                    held = made
                if held is not None and not self._put((held, True)):
                    return
        except Exception as error:
            self._put((error, True))

    def _put(self, made: tuple[MicroBatch | Exception, bool]) -> bool:
        """Wait for room and hand something over; returns whether anybody still wants more."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._ready) < self._ahead or self._closed)
            self._ready.append(made)
            self._changed.notify_all()
            return not self._closed
