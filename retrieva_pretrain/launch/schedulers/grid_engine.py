"""Grid Engine (Altair's, Univa's, Son of Grid Engine): qsub, qstat, qacct, qdel."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from retrieva_pretrain.errors import LaunchError
from retrieva_pretrain.launch.schedulers.base import JobState, TaskStates, ranges, run_client


class GridEngine:
    """A Grid Engine cluster, reached by its commands on this machine.

    It can start a job when others have ended, not when they have succeeded: what is submitted with
    `after_success` must itself see whether they did.
    """

    templates = "grid_engine"
    script_suffix = ".sh"

    def __init__(self, group: str | None = None) -> None:
        self._group = group

    def log_path(self, folder: Path, name: str, *, array: bool) -> str:
        """Return the log's path with $JOB_ID and $TASK_ID."""
        if unfit := set("$:,%") & set(str(folder)):
            raise LaunchError(
                f"{folder}: Grid Engine takes {' '.join(sorted(unfit))!r} in a log's path for its own; choose another"
            )
        return f"{folder}/{name}-" + ("$JOB_ID.$TASK_ID.log" if array else "$JOB_ID.log")

    def batches(self, indices: Sequence[int]) -> list[list[int]]:
        """Return every unbroken range by itself: -t takes no other."""
        return [list(range(first, last + 1)) for first, last in ranges(indices)]

    def command(
        self,
        script: Path | str,
        *,
        indices: Sequence[int] | None = None,
        after_success: Sequence[str] = (),
        after_end: Sequence[str] = (),
    ) -> list[str]:
        """Return the qsub command."""
        command = ["qsub", "-terse"]
        if self._group is not None:
            # TSUBAME reads it on the command line only.
            command += ["-g", self._group]
        if after := [*after_success, *after_end]:
            command += ["-hold_jid", ",".join(after)]
        if indices is not None:
            command += ["-t", f"{min(indices)}-{max(indices)}"]
        return [*command, str(script)]

    def submit(self, command: Sequence[str]) -> str:
        """Run qsub and return the job's id."""
        answer = run_client(command, os.environ)
        # An array is answered as 12.1-3:1.
        found = re.search(r"^([0-9]+)(?:\.[0-9:-]+)?$", answer.strip(), re.MULTILINE)
        if not found:
            raise LaunchError(f"{shlex.join(command)}\nno job id in the answer: {answer.strip()[:500]!r}")
        return found[1]

    def states(self, job_ids: Sequence[str]) -> dict[str, TaskStates]:
        """Ask qacct for what ended and qstat for the rest."""
        found = {job: tasks for job in job_ids if (tasks := self._accounted(job))}
        if job_ids:
            for job, tasks in self._queued().items():
                if job in job_ids:
                    found.setdefault(job, {}).update(tasks)
        return found

    def cancel(self, job_ids: Sequence[str]) -> None:
        """Run qdel."""
        run_client(["qdel", *job_ids], os.environ)

    def describe(self, job_ids: Sequence[str]) -> dict[str, str]:
        """Return the letters of qstat for what is in the queue, and how the rest has ended."""
        queued = {job: letters for job, _, letters in self._rows() if job in job_ids}
        ended = {job: tasks for job in job_ids if job not in queued and (tasks := self._accounted(job))}
        said = {job: f"{_state(letters).value} ({letters})" for job, letters in queued.items()}
        return said | {job: "/".join(state.value for state in tasks.values()) for job, tasks in ended.items()}

    def ask_to_leave(self, job_ids: Sequence[str]) -> None:
        """Cancel them: of jobs submitted with -notify, Grid Engine tells those that run a minute before."""
        self.cancel(job_ids)

    def how_to_look(self, job_ids: Sequence[str]) -> str:
        """Return a qstat command."""
        return "qstat"

    def how_to_cancel(self, job_ids: Sequence[str]) -> str:
        """Return a qdel command."""
        return shlex.join(["qdel", *job_ids])

    def _queued(self) -> dict[str, TaskStates]:
        """Return the states of this user's jobs that wait or run, array tasks one by one."""
        found: dict[str, TaskStates] = {}
        for job, task, letters in self._rows():
            found.setdefault(job, {})[int(task) if task.isdecimal() else None] = _state(letters)
        return found

    def _rows(self) -> list[tuple[str, str, str]]:
        """Return job, task and state of what is in the queue."""
        answer = run_client(["qstat", "-xml", "-g", "d"], os.environ)
        try:
            rows = list(ElementTree.fromstring(answer).iter("job_list"))  # noqa: S314 - the scheduler's own
        except ElementTree.ParseError as error:
            raise LaunchError(f"qstat -xml: its answer cannot be read: {error}") from None
        return [
            (row.findtext("JB_job_number") or "", row.findtext("tasks") or "", row.findtext("state") or "")
            for row in rows
        ]

    def _accounted(self, job_id: str) -> TaskStates:
        """Return the states of what has ended; a task that was started again counts as it ended last."""
        try:
            answer = run_client(["qacct", "-j", job_id], os.environ)
        except LaunchError:  # nothing of it has ended, or the site keeps its accounting to itself
            return {}
        found: TaskStates = {}
        for record in re.split(r"^=+$", answer, flags=re.MULTILINE):
            fields = dict(re.findall(r"^(taskid|failed|exit_status)\s+(\S+)", record, re.MULTILINE))
            if "exit_status" in fields:
                task = fields.get("taskid", "")
                well = fields["exit_status"] == "0" and fields.get("failed", "0") == "0"
                found[int(task) if task.isdecimal() else None] = JobState.DONE if well else JobState.FAILED
        return found


def _state(letters: str) -> JobState:
    """Return what qstat's letters mean: E is an error that keeps the job in the queue."""
    if "E" in letters:
        return JobState.FAILED
    return JobState.PENDING if "q" in letters else JobState.RUNNING
