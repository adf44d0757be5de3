"""A job's own view of its scheduler: who it is, which nodes it has, how long, and how it goes back into the queue."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Protocol

from retrieva_pretrain.errors import LaunchError
from retrieva_pretrain.launch.profiles import ClusterProfile, seconds
from retrieva_pretrain.launch.schedulers.base import run_client
from retrieva_pretrain.launch.schedulers.local import job_id_of
from retrieva_pretrain.launch.schedulers.slurm import client_environment, slurm_seconds

_GRID_ENGINE_REQUEUE = 99


class Inside(Protocol):
    """The job that this process is in."""

    job_id: str

    def hosts(self) -> list[str]:
        """Return the names of the job's nodes, this one first."""

    def end(self) -> float | None:
        """Return when the scheduler ends the job, in seconds since 1970; None where it never does."""

    def is_ending(self) -> bool:
        """Return whether the scheduler is ending the job already, because somebody cancels or preempts it."""

    def requeue(self) -> int:
        """Put the job back into the queue and return the code that this process must exit with.

        Raises:
            LaunchError: the scheduler refuses.
        """


def inside(profile: ClusterProfile) -> Inside:
    """Return the job that this process is in.

    Raises:
        LaunchError: it is in none.
    """
    started = time.time()
    if profile.scheduler == "slurm":
        return InSlurm(_variable("SLURM_JOB_ID"), _limit(profile, started))
    if profile.scheduler == "grid_engine":
        return InGridEngine(_variable("JOB_ID"), _limit(profile, started))
    return InLocal(job_id_of(os.getpid()), _limit(profile, started))


class InLocal:
    """A process of this machine."""

    def __init__(self, job_id: str, limit: float | None) -> None:
        self.job_id = job_id
        self._limit = limit

    def hosts(self) -> list[str]:
        """Return this machine."""
        return [socket.gethostname()]

    def end(self) -> float | None:
        """Return the start and the profile's walltime."""
        return self._limit

    def is_ending(self) -> bool:
        """Return False: nobody ends it but by signals."""
        return False

    def requeue(self) -> int:
        """Refuse: there is no queue."""
        raise LaunchError("this machine has no queue; start the same command again")


class InSlurm(InLocal):
    """A job of Slurm; this process runs on its first node."""

    def hosts(self) -> list[str]:
        """Ask scontrol for the names behind the list of nodes."""
        return run_client(
            ["scontrol", "show", "hostnames", _variable("SLURM_JOB_NODELIST")], client_environment()
        ).split()

    def end(self) -> float | None:
        """Ask squeue for the time that is left."""
        try:
            return time.time() + slurm_seconds(self._ask("%L"))
        except (LaunchError, ValueError):
            return self._limit

    def is_ending(self) -> bool:
        """Ask squeue for the job's state."""
        try:
            return self._ask("%T") not in ("RUNNING", "CONFIGURING", "SUSPENDED")
        except LaunchError:
            return False

    def requeue(self) -> int:
        """Run scontrol requeue, which ends this process."""
        run_client(["scontrol", "requeue", self.job_id], client_environment())
        return 0

    def _ask(self, field: str) -> str:
        command = ["squeue", "--noheader", f"--jobs={self.job_id}", f"--format={field}"]
        return run_client(command, client_environment()).strip()


class InGridEngine(InLocal):
    """A job of Grid Engine; this process runs on its first node."""

    def hosts(self) -> list[str]:
        """Read the file of a parallel job's hosts; a job without one has this host."""
        file = os.environ.get("PE_HOSTFILE")
        if not file:
            return [socket.gethostname()]
        lines = Path(file).read_text(encoding="utf-8").splitlines()
        return list(dict.fromkeys(line.split()[0] for line in lines if line.strip()))

    def requeue(self) -> int:
        """Return the code at which Grid Engine schedules a job again."""
        return _GRID_ENGINE_REQUEUE


def _limit(profile: ClusterProfile, started: float) -> float | None:
    return started + seconds(profile.walltime) if profile.walltime else None


def _variable(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise LaunchError(f"{name} is not set: this is for the jobs that `retrieva launch` submits")
    return value
