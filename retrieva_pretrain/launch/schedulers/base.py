"""What this project asks of a scheduler."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Protocol

from retrieva_pretrain.errors import LaunchError

ASK_SECONDS = 15.0
"""How long a program that waits leaves a scheduler in peace: every question starts a client, and many wait."""


class JobState(Enum):
    """Where a job, or one task of an array, stands. A job that the scheduler has forgotten has none."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"

    @property
    def is_active(self) -> bool:
        """Whether it waits or runs."""
        return self in (JobState.PENDING, JobState.RUNNING)


TaskStates = dict[int | None, JobState]
"""The states of an array's tasks by index; of a job that is no array, under None."""


class Scheduler(Protocol):
    """A scheduler's commands. Every method that runs one raises LaunchError with the scheduler's own words."""

    templates: str
    """The folder of its script templates."""
    script_suffix: str

    def log_path(self, folder: Path, name: str, *, array: bool) -> str:
        """Return where the output of a job goes, with the scheduler's placeholders for its number and index."""

    def batches(self, indices: Sequence[int]) -> list[list[int]]:
        """Return indices of an array, cut into what one command can name."""

    def command(
        self,
        script: Path | str,
        *,
        indices: Sequence[int] | None = None,
        after_success: Sequence[str] = (),
        after_end: Sequence[str] = (),
    ) -> list[str]:
        """Return the command that submits a script.

        Args:
            script: the script, whose directives say what it asks for.
            indices: only these tasks (one of `batches`) of the array that the script asks for.
            after_success: jobs that must have succeeded before it starts.
            after_end: jobs that must have ended before it starts, however.
        """

    def submit(self, command: Sequence[str]) -> str:
        """Run a `command` and return the job's id."""

    def states(self, job_ids: Sequence[str]) -> dict[str, TaskStates]:
        """Return where jobs stand; those that the scheduler has forgotten are left out."""

    def describe(self, job_ids: Sequence[str]) -> dict[str, str]:
        """Return a few words of where jobs stand, for people; those that the scheduler has forgotten are left out."""

    def ask_to_leave(self, job_ids: Sequence[str]) -> None:
        """Let running training jobs save and leave, and take waiting ones out of the queue."""

    def cancel(self, job_ids: Sequence[str]) -> None:
        """End jobs, or take them out of the queue."""

    def how_to_look(self, job_ids: Sequence[str]) -> str:
        """Return the command with which a user looks at jobs."""

    def how_to_cancel(self, job_ids: Sequence[str]) -> str:
        """Return the command with which a user cancels jobs."""


def run_client(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """Run a scheduler's command and return its output.

    Raises:
        LaunchError: it is not installed, or it refuses; with its own words.
    """
    try:
        done = subprocess.run(
            list(command),
            env=dict(environment),
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except FileNotFoundError:
        raise LaunchError(
            f"{command[0]} is not on the PATH; run this where the cluster takes jobs, such as a login node"
        ) from None
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}")[-2000:]
        raise LaunchError(f"{shlex.join(command)}\n{said}")
    return done.stdout


def ranges(indices: Iterable[int]) -> list[tuple[int, int]]:
    """Return numbers as ranges with both ends inside: 1 2 3 7 as (1, 3) (7, 7)."""
    found: list[tuple[int, int]] = []
    for index in sorted(set(indices)):
        if found and index == found[-1][1] + 1:
            found[-1] = (found[-1][0], index)
        else:
            found.append((index, index))
    return found


def range_text(indices: Iterable[int]) -> str:
    """Return numbers as people and Slurm write them: `1-3,7`."""
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges(indices))
