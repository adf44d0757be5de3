"""Slurm: sbatch, squeue, sacct where there is accounting, scancel."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from retrieva_pretrain.errors import LaunchError
from retrieva_pretrain.launch.schedulers.base import JobState, TaskStates, range_text, run_client

_PENDING = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
_RUNNING = {
    "RUNNING",
    "CONFIGURING",
    "COMPLETING",
    "RESIZING",
    "SIGNALING",
    "STAGE_OUT",
    "STOPPED",
    "SUSPENDED",
}
# Set inside a job, or by a user for other commands; they win over the directives of a script. SLURM_CONF says
# where the cluster is and stays.
_SCRUBBED = re.compile(r"(?:SLURM|SBATCH|SALLOC|SRUN|SQUEUE|SACCT|SCANCEL)_(?!CONF$)")


class Slurm:
    """A Slurm cluster, reached by its commands on this machine."""

    templates = "slurm"
    script_suffix = ".sbatch"

    def log_path(self, folder: Path, name: str, *, array: bool) -> str:
        """Return the log's path with %A, %a and %j for the job's number and index."""
        if "\\" in str(folder):
            raise LaunchError(
                f"{folder}: Slurm takes a backslash in a log's path for its own; choose another"
            )
        return f"{folder}/{name}-".replace("%", "%%") + ("%A_%a.log" if array else "%j.log")

    def batches(self, indices: Sequence[int]) -> list[list[int]]:
        """Return them in one: --array takes any list."""
        return [sorted(indices)]

    def command(
        self,
        script: Path | str,
        *,
        indices: Sequence[int] | None = None,
        after_success: Sequence[str] = (),
        after_end: Sequence[str] = (),
    ) -> list[str]:
        """Return the sbatch command."""
        command = ["sbatch", "--parsable"]
        if indices is not None:
            command.append(f"--array={range_text(indices)}")
        conditions = {"afterok": after_success, "afterany": after_end}
        if after := [":".join([kind, *ids]) for kind, ids in conditions.items() if ids]:
            # Without the second a job whose condition has become impossible waits for ever.
            command += [f"--dependency={','.join(after)}", "--kill-on-invalid-dep=yes"]
        return [*command, str(script)]

    def submit(self, command: Sequence[str]) -> str:
        """Run sbatch and return the job's id."""
        try:
            answer = run_client(command, client_environment())
        except LaunchError as error:
            hint = "\nIndices end below MaxArraySize: scontrol show config | grep MaxArraySize"
            raise LaunchError(f"{error}{hint if 'job array' in str(error) else ''}") from None
        found = re.search(r"^([0-9]+)(?:;.*)?$", answer, re.MULTILINE)
        if not found:
            raise LaunchError(f"{shlex.join(command)}\nno job id in the answer: {answer.strip()[:500]!r}")
        return found[1]

    def states(self, job_ids: Sequence[str]) -> dict[str, TaskStates]:
        """Ask the accounting, where there is one, for what ended, and squeue for the rest."""
        if not job_ids:
            return {}
        found: dict[str, TaskStates] = {}
        for job, index, state in [*self._accounted(job_ids), *self._queued(job_ids)]:
            if job in job_ids:
                key = int(index) if index.isdecimal() else None
                found.setdefault(job, {})[key] = _state(state)
        return found

    def cancel(self, job_ids: Sequence[str]) -> None:
        """Run scancel."""
        run_client(["scancel", *job_ids], client_environment())

    def longest_walltime(self, partition: str | None) -> int | None:
        """Return how many seconds a partition gives a job at most; None where it has no limit, or cannot be asked.

        sbatch takes a longer job without a word, and it waits for ever.
        """
        chosen = [f"--partition={partition}"] if partition else []
        try:
            answer = run_client(["sinfo", "--noheader", "--format=%P %l", *chosen], client_environment())
            limits = [line.split() for line in answer.splitlines() if len(line.split()) == 2]
            # A star marks the partition of jobs that name none.
            return max(slurm_seconds(limit) for name, limit in limits if partition or name.endswith("*"))
        except (LaunchError, ValueError):
            return None

    def describe(self, job_ids: Sequence[str]) -> dict[str, str]:
        """Ask squeue for the state of jobs, why they wait, and where they run."""
        if not job_ids:
            return {}
        command = ["squeue", "--noheader", "--states=all", "--format=%i|%T|%r|%S|%M|%N"]
        try:
            answer = run_client([*command, f"--jobs={','.join(job_ids)}"], client_environment())
        except LaunchError as error:
            if "Invalid job id" in str(error):
                return {}
            raise
        rows = (line.split("|") for line in answer.splitlines() if line.count("|") == 5)
        return {row[0]: _described(*row[1:]) for row in rows}

    def ask_to_leave(self, job_ids: Sequence[str]) -> None:
        """Let running jobs save and leave; those that wait leave the queue."""
        states = self.states(job_ids)
        for job in job_ids:
            if JobState.RUNNING in states.get(job, {}).values():
                run_client(["scancel", "--batch", "--signal=USR1", job], client_environment())
            else:
                self.cancel([job])

    def how_to_look(self, job_ids: Sequence[str]) -> str:
        """Return a squeue command."""
        return f"squeue --jobs={','.join(job_ids)}"

    def how_to_cancel(self, job_ids: Sequence[str]) -> str:
        """Return a scancel command."""
        return shlex.join(["scancel", *job_ids])

    def _queued(self, job_ids: Sequence[str]) -> list[tuple[str, str, str]]:
        """Return job, index and state of what is in the queue or left it a few minutes ago."""
        command = ["squeue", "--noheader", "--array", "--states=all", "--format=%F|%K|%T"]
        try:
            answer = run_client([*command, f"--jobs={','.join(job_ids)}"], client_environment())
        except LaunchError as error:
            if "Invalid job id" in str(error):  # it has forgotten them all
                return []
            raise
        return [_three(line.split("|")) for line in answer.splitlines() if line.count("|") == 2]

    def _accounted(self, job_ids: Sequence[str]) -> list[tuple[str, str, str]]:
        """Return job, index and state of what the accounting knows; nothing where there is none."""
        command = ["sacct", "--noheader", "--allocations", "--parsable2", "--format=JobID,State"]
        try:
            answer = run_client([*command, f"--jobs={','.join(job_ids)}"], client_environment())
        except LaunchError:
            return []
        rows = (line.split("|") for line in answer.splitlines() if line.count("|") == 1)
        # Tasks that wait stand in one row, 12_[3-7]; squeue names them one by one.
        return [
            (job.partition("_")[0], job.partition("_")[2], state.split()[0])
            for job, state in rows
            if "[" not in job and state
        ]


def _state(word: str) -> JobState:
    if word in _PENDING:
        return JobState.PENDING
    if word in _RUNNING:
        return JobState.RUNNING
    return JobState.DONE if word == "COMPLETED" else JobState.FAILED


def slurm_seconds(text: str) -> int:
    """Return a time as Slurm writes it, `1-02:03:04` or `3:04`, in seconds; ValueError for its other words."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text)
    if not match:
        raise ValueError(text)
    days, hours, minutes, rest = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest


def _described(state: str, reason: str, start: str, elapsed: str, nodes: str) -> str:
    if state == "PENDING":
        begins = f", expected to start {start}" if start not in ("N/A", "") else ""
        return f"pending ({reason}{begins})"
    word = state.lower().replace("_", " ")
    return f"{word} for {elapsed} on {nodes}" if state in _RUNNING else word


def _three(fields: list[str]) -> tuple[str, str, str]:
    job, index, state = fields
    return job, index, state


def client_environment() -> dict[str, str]:
    """Return this process's environment without what Slurm's commands would read from it instead of a script."""
    return {name: value for name, value in os.environ.items() if not _SCRUBBED.match(name)}
