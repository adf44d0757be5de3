"""Saving checkpoints beside the training, so that they are whole or absent.

A save copies this process's shards to the host (the loop is held for that) and hands them to a thread, which
writes and hashes them into a hidden folder. When all processes have written, the first one describes the files in
`checkpoint.json`, brings everything to the disk and renames the folder, in a thread too; only then does `latest`
name it. Whatever instant a kill falls into, the folders named `step_*` are complete.

Every process calls every method at the same steps; what one process meets, all learn of before any acts on it.
"""

from __future__ import annotations

import shutil
import threading
import time
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch.distributed as dist
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer

from retrieva_pretrain.errors import CheckpointError
from retrieva_pretrain.recipe.execution import CheckpointConfig
from retrieva_pretrain.training import distributed
from retrieva_pretrain.training.checkpoint_files import write_description
from retrieva_pretrain.training.distributed import Ranks
from retrieva_pretrain.training.metrics import MetricsLog
from retrieva_pretrain.training.run_folder import RunFolder
from retrieva_pretrain.training.saying import say
from retrieva_pretrain.training.shards import ShardWriter, plan_shards

# After a save that failed the next attempt comes after a tenth of the interval, and at most so many steps.
_RETRY_STEPS = 100
# A save that failed at the end of the run is tried again after so many seconds each.
_RETRY_SECONDS = (1.0, 5.0, 15.0)
_PATIENCE = 1.0


@dataclass
class _Saving:
    """A save that is at work."""

    step: int
    partial: Path
    started: float
    state: dict[str, Any]
    shards: ShardWriter
    task: _Task
    stall: float
    """Seconds for which the loop was held so far."""

    is_written: bool = False
    """Whether the shards of all processes are on the disk, and only the first process is still at work."""

    per_rank: list[dict[str, Any]] = field(default_factory=list)
    """What the save took on each rank, in their order; on the first process, once all have written."""


class Checkpointer:
    """Saves the state of a run, and keeps the newest checkpoints and the last one of each stage."""

    def __init__(
        self,
        folder: RunFolder,
        identity: dict[str, Any],
        config: CheckpointConfig,
        ranks: Ranks,
        *,
        for_ever: Collection[int] = (),
        metrics: MetricsLog | None = None,
    ) -> None:
        """Make the saver of a run; all processes together.

        `for_ever` are steps whose checkpoints are never removed. `metrics` is None on all processes but one.
        """
        self.folder = folder
        self.config = config
        self.ranks = ranks
        self.for_ever = for_ever
        self.metrics = metrics
        self.last_saved: int | None = None
        """Step of the newest checkpoint that this process group has made whole."""

        self.slowest = 0.0
        """Seconds from the beginning of the slowest save until it was whole."""

        self._described = {"world_size": ranks.world_size, "versions": _versions(), "identity": identity}
        # A process that outlived its killed run must not write into the folder of the one that came after.
        self._token = distributed.from_first(uuid.uuid4().hex[:8])
        self._saving: _Saving | None = None
        self._failure: str | None = None
        self._retry_at: int | None = None
        self._again: Callable[[], None] | None = None

    def save(
        self,
        step: int,
        model: DistributedDataParallel,
        optimizer: MegatronOptimizer,
        state: dict[str, Any],
    ) -> None:
        """Begin the checkpoint after `step` steps; one that is still being written is finished first.

        `state` is what the run must remember beside tensors, as plain JSON. What the model and the optimizer hold
        now is saved, whatever happens to them afterwards. A failure is told, and is no exception: the run goes
        on from memory. With `async_save: false` the checkpoint is whole when this returns.
        """
        self._advance(wait=True)
        started = time.perf_counter()
        self._failure, self._retry_at = None, None
        self._again = lambda: self.save(step, model, optimizer, state)
        partial = self.folder.checkpoints / f".{self.folder.checkpoint(step).name}.{self._token}.partial"
        problem = self._on_first(lambda: self._make(partial))
        if problem is not None:
            self._fail(step, partial, problem)
            return
        shards = plan_shards(model, optimizer, partial)
        stall = time.perf_counter() - started
        self._saving = _Saving(step, partial, started, state, shards, _Task(shards.write), stall)
        if not self.config.async_save:
            self._advance(wait=True)

    def poll(self, step: int, writing: int | None = None) -> bool:
        """Finish a save whose files have been written; call it after each step.

        Args:
            step: how many steps were taken.
            writing: processes whose `is_writing` was true in a sum that was made anyway. Without it, a sum is made for it
                while a save is at work, and the host waits for the device.

        Returns:
            whether a save that failed should be tried again now.
        """
        self._again = None  # what that save would have held is gone
        if not writing:
            self._advance(wait=False, is_known_to_be_written=writing == 0)
        if self._failure is None:
            return False
        if self._retry_at is None:
            self._retry_at = step + max(1, min(_RETRY_STEPS, self.config.save_interval // 10))
        return step >= self._retry_at

    def settle(self) -> None:
        """Wait until no save is at work, whatever came of it."""
        self._advance(wait=True)

    def finish(self) -> None:
        """Wait until the last save is whole, trying again where it failed; call it before the run ends.

        Raises:
            CheckpointError: the last save failed, however often it was tried.
        """
        self._advance(wait=True)
        for seconds in _RETRY_SECONDS:
            if self._failure is None or self._again is None:
                break
            if self.ranks.is_first:
                say(f"the run ends here; trying to save again in {seconds:.0f} s")
            time.sleep(seconds)
            self._again()
            self._advance(wait=True)
        if self._failure is not None:
            raise CheckpointError(
                f"{self.folder.checkpoints}: the last checkpoint could not be saved ({self._failure})."
                f" {self._newest()} Make room and start the run again."
            )

    @property
    def is_saving(self) -> bool:
        """Whether a save is at work."""
        return self._saving is not None

    @property
    def is_writing(self) -> bool:
        """Whether this process has files of a save to write that are not written yet."""
        return self._saving is not None and not self._saving.task.is_done

    def _advance(self, *, wait: bool, is_known_to_be_written: bool = False) -> None:
        """Take the save that is at work as far as it has come, on all processes alike."""
        saving, entered = self._saving, time.perf_counter()
        while saving is not None and saving is self._saving:
            is_written, is_known_to_be_written = is_known_to_be_written, False
            if not is_written and distributed.sum_over_processes([float(self.is_writing)])[0]:
                if not wait:
                    break
                # Not for long: a process that is done must not sit in one sum while another goes on writing.
                saving.task.join(_PATIENCE)
                continue
            problem = self._problem(saving.task)
            if problem is not None:
                self._saving = None
                self._fail(saving.step, saving.partial, problem)
            elif saving.is_written:
                self._saving = None
                self._report(saving, saving.stall + time.perf_counter() - entered)
            else:
                self._describe(saving)
        if self._saving is not None:
            self._saving.stall += time.perf_counter() - entered

    def _problem(self, task: _Task) -> str | None:
        """Return what a process's task ended with, the same on all processes."""
        mine = None if task.error is None else f"process {self.ranks.rank}: {_told(task.error)}"
        return distributed.first_problem(mine)

    def _describe(self, saving: _Saving) -> None:
        """Let the first process make a checkpoint of what all have written."""
        parts: list[Any] | None = [None] * self.ranks.world_size if self.ranks.is_first else None
        records, sums = saving.task.result
        figures = {
            "bytes_written": sum(entry["size"] for entry in sums.values()),
            "host_bytes": saving.shards.host_bytes,
            "device_bytes": saving.shards.assembled_bytes,
            "stall_seconds": saving.stall,
        }
        dist.gather_object((records, sums, figures), parts)
        saving.is_written = True
        if parts is not None:
            saving.per_rank = [figures for _, _, figures in parts]
            written = [(records, sums) for records, sums, _ in parts]
            saving.task = _Task(lambda: self._publish(saving, written))

    def _publish(self, saving: _Saving, parts: list[Any]) -> None:
        files = {name: entry for _, sums in parts for name, entry in sums.items()}
        files |= saving.shards.finish([records for records, _ in parts])
        content = {"step": saving.step, **self._described, "state": saving.state, "files": files}
        write_description(saving.partial, content)
        self.folder.publish(saving.partial, saving.step)
        try:
            self.folder.rotate(saving.step, self.config.keep, self.for_ever)
        except OSError as error:  # the new one is whole all the same
            say(f"WARNING: an old checkpoint could not be removed: {_told(error)}")

    def _report(self, saving: _Saving, stall: float) -> None:
        self.last_saved = saving.step
        seconds = time.perf_counter() - saving.started
        self.slowest = max(self.slowest, seconds)
        if self.metrics is not None:
            name = self.folder.checkpoint(saving.step).name
            self.metrics.write(
                "checkpoint",
                step=saving.step,
                path=name,
                seconds=seconds,
                stall_seconds=stall,
                per_rank=saving.per_rank,
            )
            most = max(figures["bytes_written"] for figures in saving.per_rank)
            say(
                f"checkpoint {name} saved in {seconds:.2f} s, of which the training stood still for {stall:.2f} s;"
                f" at most {most / 1e6:,.1f} MB per rank"
            )

    def _fail(self, step: int, partial: Path, problem: str) -> None:
        """Give up a save, on all processes alike."""
        self._failure = problem
        if self.ranks.is_first:
            shutil.rmtree(partial, ignore_errors=True)
            free = _free_bytes(self.folder.checkpoints)
            say(
                f"ERROR: the checkpoint after step {step} could NOT be saved: {problem};"
                f" {free / 1e6:,.1f} MB are free in {self.folder.checkpoints}. {self._newest()}"
                " The training goes on and tries again."
            )
        if self.metrics is not None:
            self.metrics.write("checkpoint_failed", step=step, error=problem)

    def _on_first(self, act: Callable[[], None]) -> str | None:
        """Let the first process act; returns its error, if any, on all of them."""
        problem = None
        if self.ranks.is_first:
            try:
                act()
            except OSError as error:
                problem = f"process 0: {_told(error)}"
        return distributed.from_first(problem)

    def _make(self, partial: Path) -> None:
        self.folder.clear_leftovers()
        partial.mkdir(parents=True)

    def _newest(self) -> str:
        whole = [path.name for path, damage in self.folder.checkpoints_by_age() if damage is None]
        return f"The newest whole one is {whole[0]}." if whole else "There is no whole one yet."


class _Task:
    """One call in a thread of its own."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self.result: Any = None
        self.error: Exception | None = None
        # A process that fails elsewhere must not wait for files that nobody will describe.
        self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._call()
        except Exception as error:  # told by the process group, not by this thread
            self.error = error

    @property
    def is_done(self) -> bool:
        """Whether the call has ended."""
        return not self._thread.is_alive()

    def join(self, seconds: float) -> None:
        """Wait for the end of the call, or for so many seconds."""
        self._thread.join(seconds)


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("torch", "megatron-core")}


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"


def _free_bytes(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
