"""The schedulers that jobs are submitted to, behind one interface."""

from __future__ import annotations

from retrieva_pretrain.errors import LaunchError
from retrieva_pretrain.launch.profiles import ClusterProfile
from retrieva_pretrain.launch.schedulers.base import JobState, Scheduler
from retrieva_pretrain.launch.schedulers.grid_engine import GridEngine
from retrieva_pretrain.launch.schedulers.slurm import Slurm

__all__ = ["JobState", "Scheduler", "open_scheduler"]


def open_scheduler(profile: ClusterProfile) -> Scheduler:
    """Return the scheduler of a cluster.

    Raises:
        LaunchError: the cluster has none.
    """
    if profile.scheduler == "slurm":
        return Slurm()
    if profile.scheduler == "grid_engine":
        return GridEngine(profile.group)
    raise LaunchError(
        f"--cluster {profile.name}: has no scheduler to submit jobs to; without --cluster and --array the work is done"
        " on this machine, by as many processes as --workers says"
    )
