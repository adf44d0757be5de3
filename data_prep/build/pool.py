"""The tasks of a build on the processes of one machine."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data_prep.build.plan import Task
from data_prep.build.task import TaskProgress, TaskRunner
from data_prep.errors import DataPrepError

Report = Callable[[TaskProgress], None]
# More would hold too many blocks in memory, and wait for the interpreter.
_MOST_THREADS = 8


def run_tasks(runner: TaskRunner, tasks: Sequence[Task], workers: int, report: Report) -> None:
    """Do the tasks with `workers` CPUs, the largest first. One process is this one.

    With fewer tasks left than workers, the tasks that remain get the idle ones as threads: a gzip file
    cannot be cut, and the last of them would keep one CPU busy and the others waiting.

    Raises `DataPrepError` at the first task that fails; finished shards stay.
    """
    left = sorted(tasks, key=lambda task: (-task.bytes, task.number))
    processes = min(workers, len(left))
    if processes <= 1:
        runner.threads = lambda: min(workers, _MOST_THREADS)
        for task in left:
            runner.run(task, report)
        return
    with _workers(runner, processes) as pool:
        _share_out(pool, left, workers, report)


class _Worker:
    """One worker process."""

    def __init__(self, number: int, job: str, events: queue.Queue[tuple[int, dict[str, Any]]]) -> None:
        self.number = number
        self.task: Task | None = None
        self.process = subprocess.Popen(
            [sys.executable, "-m", "data_prep.build.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=_environment(),
        )
        self._reader = threading.Thread(target=self._read, args=(events,), daemon=True)
        self._reader.start()
        self.send(job)

    def send(self, line: str) -> None:
        """Give a command; a worker that is gone tells so by its end."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except OSError:
            pass

    def stop(self) -> None:
        """End the process, whatever it does."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                # What was buffered for a process that is gone cannot be written.
                with suppress(OSError):
                    stream.close()

    def _read(self, events: queue.Queue[tuple[int, dict[str, Any]]]) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            events.put((self.number, json.loads(line)))
        events.put((self.number, {"ended": self.process.wait()}))


class _Pool:
    def __init__(self) -> None:
        self.events: queue.Queue[tuple[int, dict[str, Any]]] = queue.Queue()
        self.workers: list[_Worker] = []


@contextmanager
def _workers(runner: TaskRunner, count: int) -> Iterator[_Pool]:
    job = json.dumps(
        {
            "config": runner.config.model_dump(mode="json"),
            "plan": runner.plan.model_dump(mode="json"),
            "folder": str(runner.folder),
            "cut": asdict(runner.cut),
        }
    )
    pool = _Pool()
    try:
        for number in range(count):
            pool.workers.append(_Worker(number, job, pool.events))
        yield pool
    finally:
        for worker in pool.workers:
            worker.stop()


def _share_out(pool: _Pool, left: list[Task], workers: int, report: Report) -> None:
    running = len(pool.workers)
    for worker in pool.workers:
        _next(worker, left)
    while running:
        number, event = pool.events.get()
        worker = pool.workers[number]
        if (progress := event.get("progress")) is not None:
            report(TaskProgress(**progress))
        if "error" in event:
            raise DataPrepError(event["error"])
        if "crash" in event:
            raise RuntimeError(f"a worker of the build failed:\n{event['crash']}")
        if "ended" in event:
            raise DataPrepError(_death(worker, event["ended"]))
        if "finished" in event and not _next(worker, left):
            running -= 1
            _lend(pool, running, workers)


def _next(worker: _Worker, left: list[Task]) -> bool:
    worker.task = left.pop(0) if left else None
    if worker.task is None:
        return False
    worker.send(json.dumps({"task": worker.task.number}))
    return True


def _lend(pool: _Pool, running: int, workers: int) -> None:
    """Share the CPUs of the workers without a task among the others."""
    busy = [worker for worker in pool.workers if worker.task is not None]
    for place, worker in enumerate(busy):
        threads = workers // running + (place < workers % running)
        worker.send(json.dumps({"threads": min(threads, _MOST_THREADS)}))


def _death(worker: _Worker, code: int) -> str:
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    hint = " It may have run out of memory: take fewer --workers." if code == -9 else ""
    doing = f" while it read task {worker.task.number}" if worker.task else ""
    return (
        f"a worker process (process {worker.process.pid}) {how}{doing}.{hint} "
        "What is finished is kept; run the same command again."
    )


def _environment() -> dict[str, str]:
    """The environment of a worker: it has to find the same data_prep as this process."""
    here = str(Path(__file__).resolve().parents[2])
    paths = [here, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
