"""The schedulers that jobs are submitted to, behind one interface."""

from __future__ import annotations

from retrieva_pretrain.errors import LaunchError
from retrieva_pretrain.launch.profiles import ClusterProfile, SchedulerName
from retrieva_pretrain.launch.schedulers.base import JobState, Scheduler
from retrieva_pretrain.launch.schedulers.grid_engine import GridEngine
from retrieva_pretrain.launch.schedulers.local import Local
from retrieva_pretrain.launch.schedulers.slurm import Slurm

__all__ = ["JobState", "Scheduler", "open_scheduler", "scheduler_named"]


def open_scheduler(profile: ClusterProfile) -> Scheduler:
    """Return the scheduler of a cluster, to which arrays of jobs can be submitted.

    Raises:
        LaunchError: the cluster has none.
    """
    if profile.scheduler == "local":
        raise LaunchError(
            f"--cluster {profile.name}: has no scheduler to submit jobs to; without --cluster and --array the work is"
            " done on this machine, by as many processes as --workers says"
        )
    return scheduler_named(profile.scheduler, profile.group)


def scheduler_named(name: SchedulerName, group: str | None = None) -> Scheduler:
    """Return a scheduler by the name that profiles and records have for it; `group` pays under Grid Engine."""
    if name == "slurm":
        return Slurm()
    if name == "grid_engine":
        return GridEngine(group)
    return Local()
