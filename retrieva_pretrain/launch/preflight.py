"""`retrieva preflight`: a short job on a cluster's nodes that measures them, and what it found."""

from __future__ import annotations

import json
import math
import secrets
import shlex
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.whole_files import write_whole
from retrieva_pretrain.errors import LaunchError
from retrieva_pretrain.json_files import read_mapping
from retrieva_pretrain.launch.node import Meeting
from retrieva_pretrain.launch.nodes import start_nodes
from retrieva_pretrain.launch.outcome import failure_report, judge
from retrieva_pretrain.launch.profiles import ClusterProfile, seconds
from retrieva_pretrain.launch.records import now
from retrieva_pretrain.launch.run_files import RunFiles
from retrieva_pretrain.launch.schedulers import Scheduler, scheduler_named
from retrieva_pretrain.launch.schedulers.base import ASK_SECONDS
from retrieva_pretrain.launch.schedulers.inside import Inside
from retrieva_pretrain.launch.schedulers.local import with_gpus_here
from retrieva_pretrain.launch.scripts import check_environment
from retrieva_pretrain.launch.snapshot import PROGRAM, snapshot_code
from retrieva_pretrain.launch.spec import JobSpec
from retrieva_pretrain.launch.tails import read_tail
from retrieva_pretrain.launch.torchrun import free_port, kill_tree
from retrieva_pretrain.launch.train_scripts import check_resources, job_script, threads_of
from retrieva_pretrain.recipe.loading import dump_yaml
from retrieva_pretrain.recipe.schema import Recipe

WALLTIME = "00:15:00"
RESULT = "result.json"
MEASURED = "measured.json"
_LOOK_SECONDS = 0.5
_LATE_SECONDS = 10.0


@dataclass(frozen=True)
class Preflight:
    """A preflight that is to be submitted: its folder and files."""

    folder: Path
    spec: JobSpec
    scheduler: Scheduler
    recipe: Recipe | None
    token: str

    @property
    def measured(self) -> Path:
        """Where the job leaves the measured throughput of the recipe's stages, for `retrieva plan --measured`."""
        return self.folder / MEASURED

    @property
    def settings(self) -> Path:
        """What the job is told."""
        return self.spec.files.jobs / "001-job.json"

    @property
    def files(self) -> dict[Path, str]:
        """Every file with its content."""
        name = f"retrieva-preflight-{self.spec.profile.name}"
        log = self.scheduler.log_path(self.spec.files.logs, "001-preflight", array=False)
        script = job_script(
            self.spec, self.scheduler, self.settings, job_name=name, log=log, supervisor="preflight-job"
        )
        files = {self.settings: self.spec.model_dump_json(indent=1) + "\n", self.spec.script: script}
        if self.recipe is not None and self.spec.recipe is not None:
            files[self.spec.recipe] = dump_yaml(self.recipe)
        return files


def plan_preflight(
    profile: ClusterProfile,
    folder: Path,
    *,
    nodes: int,
    processes: int | None = None,
    recipe: Recipe | None = None,
    speed: bool = True,
) -> Preflight:
    """Return the preflight of a cluster; its files lie in `folder`, which every node must see.

    With a recipe its stages are timed, unless `speed` is False.

    Raises:
        LaunchError: the cluster cannot give so many nodes, or has no walltime.
    """
    profile = with_gpus_here(profile)
    per_node = processes or profile.processes_per_node
    check_resources(profile, nodes, per_node)
    changes: dict[str, Any] = {"training": profile.training.model_copy(update={"goes_on": "follow_up"})}
    if profile.scheduler != "local":
        changes["walltime"] = min(profile.max_walltime or WALLTIME, WALLTIME, key=seconds)
    profile = profile.model_copy(update=changes)
    folder = folder.absolute()
    jobs, scheduler = RunFiles(folder).jobs, scheduler_named(profile.scheduler, profile.group)
    spec = JobSpec(
        run=folder,
        submission=1,
        recipe=jobs / "001-recipe.yaml" if recipe is not None else None,
        arguments=["preflight-rank", str(jobs / "001-job.json"), *([] if speed else ["--no-speed"])],
        program=jobs / "001-code" / PROGRAM,
        script=jobs / f"001-preflight{scheduler.script_suffix}",
        nodes=nodes,
        processes_per_node=per_node,
        threads=threads_of(profile, per_node),
        profile=profile,
        max_failures=1,
        max_preemptions=1,
    )
    return Preflight(folder, spec, scheduler, recipe, secrets.token_hex(8))


def rehearsed(preflight: Preflight) -> str:
    """Return the files and the command that would be submitted."""
    parts = [f"==> {path} <==\n{text}" for path, text in preflight.files.items()]
    command = shlex.join(preflight.scheduler.command(preflight.spec.script))
    return "\n".join(
        [*parts, f"==> command <==\n{command}\n", "A dry run: nothing was written or submitted."]
    )


def submit_preflight(preflight: Preflight) -> str:
    """Write the files, submit the job and return its id.

    Raises:
        LaunchError: the scheduler refuses.
    """
    check_environment(preflight.spec.profile)
    files = preflight.files
    try:
        preflight.spec.files.logs.mkdir(parents=True)
        preflight.spec.files.jobs.mkdir()
        snapshot_code(preflight.spec.program.parent)
        for path, text in files.items():
            write_whole(path, text.encode())
        (preflight.folder / "token").write_text(preflight.token, encoding="utf-8")
    except OSError as error:
        raise LaunchError(f"{error.filename or preflight.folder}: {error.strerror or error}") from None
    return preflight.scheduler.submit(preflight.scheduler.command(preflight.spec.script))


def wait_for_result(
    preflight: Preflight, job: str, tell: Callable[[str], None], *, ask_seconds: float = ASK_SECONDS
) -> dict[str, Any]:
    """Wait for a preflight's result and return it; `tell` is told when the job's state changes.

    The scheduler is asked every `ask_seconds`, this machine every second.

    Raises:
        LaunchError: the job ended without one; with what its logs say.
    """
    if preflight.spec.profile.scheduler == "local":
        ask_seconds = 1
    said, gone, ask_at = "", False, -math.inf
    while (result := read_mapping(preflight.folder / RESULT)) is None:
        if time.monotonic() >= ask_at:
            states = preflight.scheduler.states([job]).get(job, {})
            was_gone, gone = gone, not any(state.is_active for state in states.values())
            # A result may come to this machine a little after the job's end.
            if gone and was_gone:
                raise LaunchError(f"the preflight ended without a result:\n{_why(preflight.spec.files)}")
            if not gone and (word := preflight.scheduler.describe([job]).get(job, "")) != said:
                said = word
                tell(f"job {job}: {word}")
            ask_at = time.monotonic() + (max(ask_seconds, _LATE_SECONDS) if gone else ask_seconds)
        time.sleep(_LOOK_SECONDS)
    return result


def run_preflight_job(spec: JobSpec, command: Sequence[str], job: Inside) -> int:
    """Be the first process of a preflight's job: start the nodes and wait for them; return the exit code."""
    hosts = job.hosts()
    logs = spec.files.attempt_logs(1)
    logs.mkdir(parents=True, exist_ok=True)
    address = spec.profile.training.rendezvous_address or hosts[0]
    processes = start_nodes(spec, command, Meeting(1, address, free_port(), None), hosts)
    try:
        while any(process.poll() is None for process in processes) and not any(p.poll() for p in processes):
            time.sleep(0.2)
        _give_time(processes)
    finally:
        for process in processes:
            kill_tree(process)
    if (spec.run / RESULT).exists():
        return 0
    codes = [process.returncode for process in processes]
    ending = judge(spec.files, 1, codes, told_to_leave=False)
    failure = failure_report(spec.files, 1, ending.rank) or ending.reason
    write_whole(spec.run / RESULT, json.dumps({"failure": failure, "time": now()}).encode())
    return 1


def _give_time(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Let the other nodes end by themselves after the first."""
    end = time.monotonic() + 30
    while any(process.poll() is None for process in processes) and time.monotonic() < end:
        time.sleep(0.2)


def _why(files: RunFiles) -> str:
    logs = sorted(files.logs.glob("001-preflight*.log"))
    return (read_tail(logs[-1], 3000) if logs else "") or f"there is no log in {files.logs}"
