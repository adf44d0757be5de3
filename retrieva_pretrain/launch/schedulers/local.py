"""No scheduler: jobs are processes of this machine, known by its name, their number and when they began."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from retrieva_pretrain.errors import LaunchError
from retrieva_pretrain.launch.profiles import ClusterProfile
from retrieva_pretrain.launch.schedulers.base import JobState, TaskStates
from retrieva_pretrain.launch.torchrun import kill_family


class Local:
    """This machine."""

    templates = "local"
    script_suffix = ".sh"

    def log_path(self, folder: Path, name: str, *, array: bool) -> str:
        """Return the log's path; there is no number to put into it."""
        return f"{folder}/{name}.log"

    def batches(self, indices: Sequence[int]) -> list[list[int]]:
        """Refuse: there are no arrays here."""
        raise LaunchError("this machine has no job arrays")

    def command(
        self,
        script: Path | str,
        *,
        indices: Sequence[int] | None = None,
        after_success: Sequence[str] = (),
        after_end: Sequence[str] = (),
    ) -> list[str]:
        """Return the command that runs a script."""
        return ["bash", str(script)]

    def submit(self, command: Sequence[str]) -> str:
        """Start a process that outlives this one, and return its name; its output goes beside its script's logs."""
        script = Path(command[-1])
        log = script.parent.parent / "logs" / f"{script.stem}.log"
        with log.open("ab") as stream:
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return job_id_of(process.pid)

    def states(self, job_ids: Sequence[str]) -> dict[str, TaskStates]:
        """Return which of the processes run; those that have ended are not remembered.

        Raises:
            LaunchError: one is a process of another machine, which alone knows.
        """
        for job in job_ids:
            if (host := elsewhere(job)) is not None:
                raise LaunchError(
                    f"job {job} is a process of {host}; ask there. Where that machine is gone for good, remove the"
                    " job's line from the run's jobs.jsonl"
                )
        return {job: {None: JobState.RUNNING} for job in job_ids if _process(job) is not None}

    def describe(self, job_ids: Sequence[str]) -> dict[str, str]:
        """Return a word on each job that runs."""
        return dict.fromkeys(self.states(job_ids), "running on this machine")

    def ask_to_leave(self, job_ids: Sequence[str]) -> None:
        """Let jobs save and leave."""
        self._signal(job_ids, signal.SIGUSR1)

    def cancel(self, job_ids: Sequence[str]) -> None:
        """End jobs and all they have started."""
        for job in job_ids:
            if (process := _process(job)) is not None:
                with suppress(psutil.NoSuchProcess):
                    kill_family(process)

    def how_to_look(self, job_ids: Sequence[str]) -> str:
        """Return a ps command."""
        return shlex.join(["ps", "--pid", ",".join(job.split(":")[1] for job in job_ids)])

    def how_to_cancel(self, job_ids: Sequence[str]) -> str:
        """Return a kill command, at which training saves and leaves."""
        return shlex.join(["kill", *(job.split(":")[1] for job in job_ids)])

    def _signal(self, job_ids: Sequence[str], number: signal.Signals) -> None:
        for job in job_ids:
            if (process := _process(job)) is not None:
                os.kill(process.pid, number)


def with_gpus_here(profile: ClusterProfile) -> ClusterProfile:
    """Return a profile of this machine with the GPUs that a process here may use; another as it is. No torch."""
    if profile.scheduler != "local" or profile.gpus_per_node:
        return profile
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        gpus = len(list(Path("/dev").glob("nvidia[0-9]*")))
    else:
        gpus = len([device for device in visible.split(",") if device.strip() not in ("", "-1")])
    return profile.model_copy(update={"gpus_per_node": min(gpus, 64)})


def job_id_of(pid: int) -> str:
    """Return the name of a process that runs here."""
    return f"{socket.gethostname()}:{pid}:{int(psutil.Process(pid).create_time())}"


def elsewhere(job_id: str) -> str | None:
    """Return the machine of a process, None where it is this one."""
    host = job_id.rsplit(":", 2)[0]
    return host if host != socket.gethostname() else None


def _process(job_id: str) -> psutil.Process | None:
    """Return the process of that name, None where it does not run (any more), or runs elsewhere."""
    if elsewhere(job_id) is not None:
        return None
    _, pid, began = job_id.rsplit(":", 2)
    try:
        process = psutil.Process(int(pid))
        # Numbers of processes come back; and the time of a start is computed from clocks that are set.
        if abs(process.create_time() - int(began)) > 5 or process.status() == psutil.STATUS_ZOMBIE:
            return None
    except psutil.NoSuchProcess:
        return None
    return process
