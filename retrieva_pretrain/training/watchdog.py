"""Ends a process that waits for ever: for another one that hangs or has died, or for a device or a disk.

The loop tells the watchdog what it is doing. When nothing was told for the allowed time, a thread writes the stacks
of all threads to the error stream, says which processes were last heard of where, and ends the process with
`os._exit`: a collective that will never return cannot be interrupted in any other way. Python's own
`faulthandler` timer stands behind it, for a hang that holds the interpreter's lock.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist

from retrieva_pretrain.exit_codes import FAILED
from retrieva_pretrain.recipe.schema import FaultsConfig

_HEARTBEAT_SECONDS = 5.0
_STORE_PATIENCE = 3.0
# faulthandler's timer comes so much later than the thread, which says more.
_BEHIND_FACTOR, _BEHIND_SECONDS = 1.25, 15.0


@dataclass(frozen=True)
class _Doing:
    phase: str
    step: int
    since: float
    allowed: float


class Watchdog:
    """Watches one process. Phases: `start`, `step`, `evaluation`, `checkpoint`, `end`."""

    def __init__(
        self, config: FaultsConfig, rank: int, world_size: int, on_hang: Callable[[str], None]
    ) -> None:
        """Start watching. `on_hang` is called with the message before the process ends."""
        self._config = config
        self._rank, self._world_size = rank, world_size
        self._on_hang = on_hang
        self._ended = threading.Event()
        self._timer_set = 0.0
        self._doing = _Doing("", 0, 0.0, 0.0)
        self.enter("start", 0)
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        if world_size > 1:
            threading.Thread(target=self._tell_others, name="heartbeat", daemon=True).start()

    def enter(self, phase: str, step: int) -> None:
        """Say what begins now; `step` is the number of steps done."""
        allowed = self._config.step_timeout if phase == "step" else self._config.pause_timeout
        before, self._doing = self._doing, _Doing(phase, step, time.monotonic(), allowed)
        # Setting the timer starts a thread: once a second is enough, and whenever more time is allowed.
        if allowed != before.allowed or self._doing.since - self._timer_set > 1.0:
            self._timer_set = self._doing.since
            behind = allowed * _BEHIND_FACTOR + _BEHIND_SECONDS
            faulthandler.dump_traceback_later(behind, exit=True, file=sys.__stderr__ or sys.stderr)

    def close(self) -> None:
        """Stop watching."""
        self._ended.set()
        faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        while not self._ended.wait(min(1.0, self._doing.allowed / 4)):
            doing = self._doing
            waited = time.monotonic() - doing.since
            if waited > doing.allowed:
                self._give_up(doing, waited)

    def _give_up(self, doing: _Doing, waited: float) -> None:
        field = "step_timeout" if doing.phase == "step" else "pause_timeout"
        message = (
            f"process {self._rank} made no progress for {waited:.0f} s ({doing.phase}, after step {doing.step};"
            f" faults.{field} allows {doing.allowed:.0f} s)"
        )
        stream = sys.__stderr__ or sys.stderr
        print(f"retrieva: {message}; the stacks of its threads:", file=stream, flush=True)
        faulthandler.dump_traceback(file=stream, all_threads=True)
        for line in self._heard_of_others():
            print(f"retrieva: {line}", file=stream, flush=True)
        with suppress(Exception):
            self._on_hang(message)
        os._exit(FAILED)

    def _tell_others(self) -> None:
        """Leave a sign of life in the store that the processes met at."""
        while not self._ended.is_set():
            doing = self._doing
            content = json.dumps({"phase": doing.phase, "step": doing.step, "time": time.time()})
            with suppress(Exception):
                _store().set(f"heartbeat/{self._rank}", content)
            self._ended.wait(_HEARTBEAT_SECONDS)

    def _heard_of_others(self) -> list[str]:
        """Ask the store for the other processes, which may take no longer than a moment: it may hang as well."""
        found: dict[int, dict[str, Any]] = {}

        def ask() -> None:
            for rank in range(self._world_size):
                if rank != self._rank and _store().check([f"heartbeat/{rank}"]):
                    found[rank] = json.loads(_store().get(f"heartbeat/{rank}"))

        def ask_quietly() -> None:
            with suppress(Exception):
                ask()

        asking = threading.Thread(target=ask_quietly, daemon=True)
        asking.start()
        asking.join(_STORE_PATIENCE)
        now = time.time()
        lines = [
            f"process {rank} was last heard of {now - beat['time']:.0f} s ago: {beat['phase']}, after step {beat['step']}"
            for rank, beat in sorted(found.items())
        ]
        silent = [rank for rank in range(self._world_size) if rank != self._rank and rank not in found]
        return lines + ([f"nothing was heard of the processes {silent}"] if silent else [])


def _store() -> Any:
    return dist.distributed_c10d._get_default_store()
