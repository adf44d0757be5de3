"""`retrieva launch`: a training run as a job of a cluster, or on this machine."""

from __future__ import annotations

import os
import shlex
import shutil
from dataclasses import dataclass

from data_prep.whole_files import write_whole
from retrieva_pretrain.errors import LaunchError
from retrieva_pretrain.launch.attempts import perhaps_active, read_history
from retrieva_pretrain.launch.profiles import ClusterProfile, seconds
from retrieva_pretrain.launch.records import JobRecord, append_record, now, read_records, submitting
from retrieva_pretrain.launch.run_files import RunFiles
from retrieva_pretrain.launch.schedulers import scheduler_named
from retrieva_pretrain.launch.schedulers.local import with_gpus_here
from retrieva_pretrain.launch.schedulers.slurm import Slurm
from retrieva_pretrain.launch.scripts import check_environment
from retrieva_pretrain.launch.snapshot import snapshot_code
from retrieva_pretrain.launch.train_scripts import TrainScripts, check_resources
from retrieva_pretrain.recipe.layout import stage_layouts
from retrieva_pretrain.recipe.schema import Recipe


@dataclass(frozen=True)
class Launched:
    """What was submitted, or in a dry run would be."""

    run: RunFiles
    job_id: str | None
    message: str
    """What to tell the user."""


def launch_run(
    recipe: Recipe,
    profile: ClusterProfile,
    *,
    nodes: int = 1,
    processes_per_node: int | None = None,
    jobs: int = 1,
    dry_run: bool = False,
) -> Launched:
    """Submit the training of a recipe, from its newest checkpoint to its end.

    Args:
        recipe: the recipe; it, the code and the profile are kept as they are now.
        profile: the cluster.
        nodes: nodes of the job; a run may go on with another number.
        processes_per_node: instead of the profile's.
        jobs: so many jobs at once, each of which waits for the end of the one before: for sites where a job can
            neither be requeued nor submit another. Those that are not needed leave the queue.
        dry_run: submit and write nothing; the message holds the files and the command.

    Raises:
        LaunchError: the cluster cannot run it, the scheduler refuses, the run is under way already, or is done.
        RecipeError: the recipe does not fit the number of processes.
    """
    profile = with_gpus_here(profile)
    processes = processes_per_node or profile.processes_per_node
    check_resources(profile, nodes, processes)
    if jobs > 1:
        profile = _as_a_chain(profile)
    stage_layouts(recipe, nodes * processes)
    scripts = _scripts(recipe, profile, nodes, processes)
    if dry_run:
        return Launched(scripts.run, None, _rehearsed(scripts))
    check_environment(profile)
    _refuse_what_is_too_long(profile)
    _refuse_what_is_done(recipe, scripts.run)
    _ = scripts.files  # what cannot be written into a script is refused before anything is there
    run = scripts.run
    with submitting(run.jobs):
        run.logs.mkdir(exist_ok=True)
        refuse_what_runs(run)
        scripts = _scripts(recipe, profile, nodes, processes)
        snapshot_code(scripts.code)
        for path, text in scripts.files.items():
            write_whole(path, text.encode())
        submitted: list[str] = []
        try:
            for _ in range(jobs):
                submitted.append(_submit(scripts, after=submitted[-1:]))
        except LaunchError:
            if not submitted:
                _take_back(scripts)
            raise
    return Launched(run, submitted[0], _told(scripts, submitted))


def _take_back(scripts: TrainScripts) -> None:
    """Remove what a submission has written that the scheduler has refused."""
    shutil.rmtree(scripts.code, ignore_errors=True)
    for path in scripts.files:
        path.unlink(missing_ok=True)


def _submit(scripts: TrainScripts, *, after: list[str]) -> str:
    """Submit a job and record it; return its id."""
    command = scripts.scheduler.command(scripts.script, after_end=after)
    job = scripts.scheduler.submit(command)
    record = JobRecord(
        time=now(),
        submission=scripts.number,
        kind="train",
        scheduler=scripts.profile.scheduler,
        job_id=job,
        after=after,
        nodes=scripts.nodes,
        script=scripts.script.name,
        command=command,
    )
    append_record(scripts.run.records, record)
    return job


def _as_a_chain(profile: ClusterProfile) -> ClusterProfile:
    """Return a profile whose jobs are followed by others."""
    if profile.scheduler == "local":
        raise LaunchError("--jobs: this machine has no queue; one job trains until the recipe is done")
    training = profile.training.model_copy(update={"goes_on": "follow_up"})
    return profile.model_copy(update={"training": training})


def refuse_what_runs(run: RunFiles) -> None:
    """Raise LaunchError where a job of the run waits or runs."""
    active = active_jobs(run)
    if not active:
        return
    scheduler = scheduler_named(active[0].scheduler)
    jobs = [record.job_id for record in active]
    raise LaunchError(
        f"{run.run}: this run is under way as job {', '.join(jobs)}. See `retrieva status {_shown(run)}`,"
        f" end it with `retrieva cancel {_shown(run)}`, or give the recipe another name"
        f" (`{scheduler.how_to_look(jobs)}`)"
    )


def active_jobs(run: RunFiles) -> list[JobRecord]:
    """Return the jobs of a run that wait or run.

    Raises:
        LaunchError: their scheduler, or the machine on which they run, cannot be asked from here.
    """
    records = read_records(run.records)
    active: list[JobRecord] = []
    possible = perhaps_active(records, read_history(run.attempts))
    for name in dict.fromkeys(record.scheduler for record in possible):
        mine = [record for record in possible if record.scheduler == name]
        states = scheduler_named(name).states([record.job_id for record in mine])
        active += [r for r in mine if any(state.is_active for state in states.get(r.job_id, {}).values())]
    return active


def _scripts(recipe: Recipe, profile: ClusterProfile, nodes: int, processes: int) -> TrainScripts:
    run = RunFiles(recipe.run_folder)
    number = 1 + max((record.submission for record in read_records(run.records)), default=0)
    scheduler = scheduler_named(profile.scheduler, profile.group)
    return TrainScripts(recipe, profile, scheduler, nodes, processes, number)


def _refuse_what_is_done(recipe: Recipe, run: RunFiles) -> None:
    total = recipe.total_steps
    if run.newest_step() >= total:
        raise LaunchError(
            f"{run.run}: is trained to the end of the recipe, step {total:,}; there is nothing to launch"
        )


def _refuse_what_is_too_long(profile: ClusterProfile) -> None:
    if profile.scheduler != "slurm" or profile.walltime is None:
        return
    limit = Slurm().longest_walltime(profile.partition)
    if limit is not None and seconds(profile.walltime) > limit:
        raise LaunchError(
            f"--cluster {profile.name}: walltime {profile.walltime} is over the {limit // 3600}:{limit // 60 % 60:02}"
            " hours that the partition gives a job; it would wait for ever. --set walltime=... changes it"
        )


def _rehearsed(scripts: TrainScripts) -> str:
    parts = [f"==> {path} <==\n{text}" for path, text in scripts.files.items()]
    command = shlex.join(scripts.scheduler.command(scripts.script))
    parts.append(f"==> command <==\n{command}\n")
    return "\n".join([*parts, "A dry run: nothing was written or submitted."])


def _told(scripts: TrainScripts, jobs: list[str]) -> str:
    run, name = scripts.run, scripts.recipe.name
    shown = _shown(run)
    processes = scripts.nodes * scripts.processes_per_node
    return (
        f"{name}: submitted as job {', '.join(jobs)}, {processes} processes on {scripts.nodes} node{'s' if scripts.nodes > 1 else ''}, from step"
        f" {run.newest_step():,} of {scripts.recipe.total_steps:,}.\n"
        f"  retrieva status {shown}\n"
        f"  retrieva logs {shown} --follow\n"
        f"  retrieva cancel {shown}"
    )


def _shown(run: RunFiles) -> str:
    """Return a run as a user would name it here."""
    here = os.path.relpath(run.run)
    return shlex.quote(str(run.run) if here.startswith("..") else here)
