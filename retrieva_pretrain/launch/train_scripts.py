"""The files of one submission of `retrieva launch`: recipe, settings, script."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from retrieva_pretrain.errors import LaunchError
from retrieva_pretrain.launch.profiles import ClusterProfile, seconds
from retrieva_pretrain.launch.run_files import RunFiles
from retrieva_pretrain.launch.schedulers import Scheduler
from retrieva_pretrain.launch.scripts import environment_lines, program_command, render
from retrieva_pretrain.launch.snapshot import PROGRAM
from retrieva_pretrain.launch.spec import JobSpec
from retrieva_pretrain.recipe.loading import dump_yaml
from retrieva_pretrain.recipe.schema import Recipe


@dataclass(frozen=True)
class TrainScripts:
    """What the jobs of one submission read and run."""

    recipe: Recipe
    profile: ClusterProfile
    scheduler: Scheduler
    nodes: int
    processes_per_node: int
    number: int
    """Of the submission, from 1; every submission keeps its files."""

    @property
    def run(self) -> RunFiles:
        """The run's files; absolute, since jobs may start elsewhere."""
        return RunFiles(self.recipe.run_folder.absolute())

    @property
    def code(self) -> Path:
        """The folder of the snapshot of the code."""
        return self._named("code")

    @property
    def script(self) -> Path:
        """The job's script."""
        return self._named(f"train{self.scheduler.script_suffix}")

    @cached_property
    def files(self) -> dict[Path, str]:
        """Every file with its content. Raises LaunchError for what no script can hold."""
        return {
            self._named("recipe.yaml"): dump_yaml(self.recipe),
            self._named("cluster.yaml"): dump_yaml(self.profile),
            self._named("job.json"): self._spec().model_dump_json(indent=1) + "\n",
            self.script: self._script(),
        }

    def _spec(self) -> JobSpec:
        training = self.profile.training
        return JobSpec(
            run=self.run.run,
            submission=self.number,
            recipe=self._named("recipe.yaml"),
            arguments=["train", str(self._named("recipe.yaml"))],
            program=self.code / PROGRAM,
            script=self.script,
            nodes=self.nodes,
            processes_per_node=self.processes_per_node,
            threads=threads_of(self.profile, self.processes_per_node),
            profile=self.profile,
            max_failures=training.max_failures,
            max_preemptions=training.max_preemptions,
        )

    def _script(self) -> str:
        return job_script(
            self._spec(),
            self.scheduler,
            self._named("job.json"),
            job_name=f"retrieva-{self.recipe.name}",
            log=self.scheduler.log_path(self.run.logs, f"{self.number:03}-train", array=False),
            supervisor="job",
        )

    def _named(self, name: str) -> Path:
        return self.run.jobs / f"{self.number:03}-{name}"


def job_script(
    spec: JobSpec, scheduler: Scheduler, settings: Path, *, job_name: str, log: str, supervisor: str
) -> str:
    """Return the script of a job on whole nodes.

    Args:
        spec: what the job is told.
        scheduler: whose template is filled.
        settings: the file that `spec` is written to.
        job_name: as the queue shows it.
        log: where the job's own output goes.
        supervisor: the command of this program that runs on the first node.
    """
    profile = spec.profile
    words = {"slurm": ("requeue", "no-requeue"), "grid_engine": ("y", "n"), "local": ("", "")}[
        profile.scheduler
    ]
    # The supervisor needs the scheduler's commands, which a container does not hold.
    python = "python" if profile.environment.virtual_environment else sys.executable
    node = ["node", str(settings)]
    values = {
        "job_name": job_name,
        "log": log,
        "requeue": words[profile.training.goes_on != "requeue"],
        "nodes": spec.nodes,
        "gres": ":".join(
            ["gpu", *([profile.gpu_type] if profile.gpu_type else []), str(profile.gpus_per_node)]
        ),
        "remind_seconds": max(1, seconds(profile.training.leave_before_end) // 2),
        # srun does not take this over from the job by itself.
        "srun_cpus": f"--cpus-per-task={profile.cpus_per_node} " if profile.cpus_per_node else "",
        "working_directory": Path.cwd(),
        "environment": environment_lines(profile),
        "supervisor": [python, str(spec.program), supervisor, str(settings)],
        "node": program_command(profile, node, program=spec.program, gpus=profile.gpus_per_node > 0),
    }
    return render(f"{scheduler.templates}/train_job{scheduler.script_suffix}", profile, values)


def threads_of(profile: ClusterProfile, processes_per_node: int) -> int | None:
    """Return the CPU threads of a process: the profile's, or its share of the node's CPUs."""
    if profile.training.cpus_per_process is not None:
        return profile.training.cpus_per_process
    if profile.cpus_per_node is not None:
        return max(1, profile.cpus_per_node // processes_per_node)
    return 1 if profile.gpus_per_node == 0 else None


def check_resources(profile: ClusterProfile, nodes: int, processes_per_node: int) -> None:
    """Refuse what the cluster cannot give.

    Raises:
        LaunchError: too many nodes, more processes than a node has GPUs, or a profile that does not say how long a job
            may take.
    """
    if profile.gpus_per_node and processes_per_node > profile.gpus_per_node:
        raise LaunchError(
            f"{processes_per_node} processes on a node: {profile.name} has {profile.gpus_per_node} GPUs a node, and each"
            " process takes one; give fewer (--processes, training.processes_per_node)"
        )
    most = 1 if profile.scheduler == "local" else profile.max_nodes
    if most is not None and nodes > most:
        raise LaunchError(f"--nodes {nodes}: {profile.name} gives a job at most {most}")
    if profile.scheduler != "local" and profile.walltime is None:
        raise LaunchError(
            f"--cluster {profile.name}: its profile has no walltime; without one nobody knows when to save"
        )
    if profile.scheduler == "grid_engine" and nodes > 1:
        asked = profile.resource_type or profile.training.parallel_environment
        if not asked:
            raise LaunchError(
                f"--nodes {nodes}: {profile.name} does not say how to ask for them; give resource_type (-l TYPE=N) or"
                " training.parallel_environment (-pe NAME N)"
            )
