"""A worker process of a build: takes task numbers on its standard input, tells what it does on its output.

It is a program of its own, and not a child of `multiprocessing`, for two reasons: it ends when its input
ends, so that a build killed with SIGKILL leaves no process that goes on writing; and it starts without
importing the main program of whoever called `build`.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

_TELL_EVERY = 0.25  # seconds


def main() -> None:
    """Read the job and then commands, a line of JSON each: `{"task": 3}` or `{"threads": 2}`."""
    # Ctrl-C goes to the whole foreground group; the build decides and closes our input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    job = json.loads(sys.stdin.readline() or "null")
    if job is None:
        return
    tasks: queue.Queue[int] = queue.Queue()
    threads = [1]
    listener = threading.Thread(target=_listen, args=(tasks, threads), daemon=True)
    listener.start()
    try:
        _work(job, tasks, threads)
    except BaseException as error:
        from data_prep.errors import DataPrepError

        if isinstance(error, DataPrepError):
            _tell({"error": str(error)})
        else:
            _tell({"crash": traceback.format_exc()})


def _work(job: dict[str, Any], tasks: queue.Queue[int], threads: list[int]) -> None:
    from data_prep.build.plan import BuildPlan, Cut
    from data_prep.build.task import TaskProgress, TaskRunner
    from data_prep.corpus import CorpusConfig

    folder = Path(job["folder"])
    plan = BuildPlan.model_validate(job["plan"])
    config = CorpusConfig.model_validate(job["config"])
    runner = TaskRunner(config, plan, folder, threads=lambda: threads[0], cut=Cut(**job["cut"]))
    last = 0.0

    def report(progress: TaskProgress) -> None:
        nonlocal last
        if time.monotonic() - last >= _TELL_EVERY:
            last = time.monotonic()
            _tell({"progress": progress.__dict__})

    _tell({"ready": True})
    while True:
        number = tasks.get()
        latest: list[TaskProgress] = []

        def keep(progress: TaskProgress, latest: list[TaskProgress] = latest) -> None:
            latest[:] = [progress]
            report(progress)

        runner.run(plan.tasks[number], keep)
        _tell({"finished": number, "progress": latest[-1].__dict__ if latest else None})


def _listen(tasks: queue.Queue[int], threads: list[int]) -> None:
    for line in sys.stdin:
        command = json.loads(line)
        if "task" in command:
            tasks.put(command["task"])
        elif "threads" in command:
            threads[0] = command["threads"]
    # The build is over, or was killed. What is half-written has a partial name and nobody's lock.
    os._exit(0)


def _tell(event: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
