"""`retrieva status`: where a run stands, from its files and its scheduler's queue. No torch."""

from __future__ import annotations

import json
import shlex
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from retrieva_pretrain.errors import LaunchError, RetrievaError
from retrieva_pretrain.launch.attempts import Attempt, History, perhaps_active, preemptions, read_history
from retrieva_pretrain.launch.records import JobRecord, read_records
from retrieva_pretrain.launch.run_files import RunFiles
from retrieva_pretrain.launch.schedulers import JobState, scheduler_named
from retrieva_pretrain.launch.spec import read_spec
from retrieva_pretrain.launch.tails import read_tail
from retrieva_pretrain.outcome import read_outcome
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe

_TAIL_BYTES = 2**19
_RATE_OF = 20
"""Steps over which the rate is taken."""


@dataclass(frozen=True)
class Job:
    """A job of the run."""

    job_id: str
    scheduler: str
    submitted: str
    nodes: int | None
    state: str
    """In the scheduler's words; `forgotten` where it knows no more of it."""

    active: bool


@dataclass
class RunStatus:
    """Where a run stands."""

    run: str
    state: str
    """done, running, waiting, cancelled, stopped, dead, or left (saved and left, with nobody to go on)."""

    reason: str
    """Why it does not train, where it does not."""

    step: int
    total_steps: int
    stage: int | None = None
    stages: int | None = None
    seq_length: int | None = None
    loss: float | None = None
    tokens_per_second: float | None = None
    mfu: float | None = None
    seconds_left: float | None = None
    """Of training, as the run itself has it in its last line."""

    last_step_age: float | None = None
    """Seconds since a step was recorded."""

    checkpoint_step: int | None = None
    checkpoint_age: float | None = None
    jobs: list[Job] = field(default_factory=list)
    attempts: list[dict[str, Any]] = field(default_factory=list)
    failures: int = 0
    preemptions: int = 0
    go_on: str | None = None
    """The command with which the run goes on, where nobody does."""


def run_status(run: RunFiles) -> RunStatus:
    """Return where a run stands.

    Raises:
        LaunchError: the run's records cannot be read.
    """
    history, records = read_history(run.attempts), read_records(run.records)
    jobs, asked = _jobs(records, history)
    recipe = _recipe(run, records)
    total = recipe.total_steps if recipe is not None else 0
    state, reason = _state(run, history, records, jobs, asked=asked, total=total)
    status = RunStatus(str(run.run), state, reason, run.newest_step(), total, jobs=jobs)
    _add_metrics(status, run, recipe)
    if (newest := run.newest_checkpoint()) is not None:
        status.checkpoint_step = newest[0]
        status.checkpoint_age = time.time() - (newest[1] / "checkpoint.json").stat().st_mtime
    status.attempts = [_flat(attempt) for attempt in history.attempts]
    status.failures = sum(
        a.end is not None and a.end.outcome in ("failed", "stopped") for a in history.attempts
    )
    status.preemptions = preemptions(history.attempts)
    if state in ("dead", "stopped", "cancelled", "left"):
        status.go_on = _go_on(run, records)
    return status


def _jobs(records: list[JobRecord], history: History) -> tuple[list[Job], bool]:
    """Return the jobs with their states, and whether their schedulers could be asked."""
    said: dict[str, str] = {}
    active: set[str] = set()
    asked = True
    possible = perhaps_active(records, history)
    for name in dict.fromkeys(record.scheduler for record in possible):
        scheduler, mine = scheduler_named(name), [r.job_id for r in possible if r.scheduler == name]
        try:
            states = scheduler.states(mine)
            said |= {job: "/".join(state.value for state in tasks.values()) for job, tasks in states.items()}
            active |= {j for j, tasks in states.items() if any(state.is_active for state in tasks.values())}
            said |= scheduler.describe(mine)
        except LaunchError as error:
            asked = False
            said |= dict.fromkeys(mine, f"unknown: {str(error).splitlines()[-1]}")
    return [
        Job(r.job_id, r.scheduler, r.time, r.nodes, said.get(r.job_id, "forgotten"), r.job_id in active)
        for r in records
    ], asked


def _state(
    run: RunFiles,
    history: History,
    records: list[JobRecord],
    jobs: list[Job],
    *,
    asked: bool,
    total: int,
) -> tuple[str, str]:
    """Return the state in a word, and why it is so."""
    last = history.attempts[-1] if history.attempts else None
    active = [job for job in jobs if job.active]
    if active:
        waits = all(job.state.startswith(JobState.PENDING.value) for job in active)
        if not waits:
            return "running", ""
        return "waiting", f"{active[0].state}" + (f"; before: {last.end.reason}" if last and last.end else "")
    if (total and run.newest_step() >= total) or (last and last.end and last.end.outcome == "done"):
        return "done", ""
    if not asked:
        return "unknown", "the scheduler cannot be asked from here"
    if not jobs:
        return _without_jobs(run)
    if records and history.cancelled_submission >= records[-1].submission:
        return "cancelled", "cancelled by `retrieva cancel`"
    if last is None:
        return "dead", f"its job ended before training began ({jobs[-1].state}); see `retrieva logs`"
    if last.end is None:
        why = "killed from outside: out of time, preempted, its node failed, or killed for want of memory"
        return "dead", f"attempt {last.start.number} was {why}; the scheduler says: {jobs[-1].state}"
    if last.end.outcome in ("cancelled", "stopped"):
        return last.end.outcome, last.end.reason
    if last.end.outcome in ("left", "interrupted"):
        return "left", f"{last.end.reason}; no job goes on"
    return "dead", f"{last.end.reason}; no job goes on"


def _without_jobs(run: RunFiles) -> tuple[str, str]:
    """Judge a run that was started by `retrieva train` alone."""
    ended = read_outcome(run.run)
    if ended is None:
        return "unknown", "started without `retrieva launch`: whether it runs is known where it was started"
    if ended.get("reason") == "done":
        return "done", ""
    state = "left" if ended.get("reason") == "stopped" else "dead"
    return state, f"{ended.get('message')}; it was started without `retrieva launch`"


def _add_metrics(status: RunStatus, run: RunFiles, recipe: Recipe | None) -> None:
    steps = [
        r for r in _last_records(run.metrics) if r.get("kind") == "train" and isinstance(r.get("step"), int)
    ]
    if recipe is not None:
        status.stages = len(recipe.curriculum)
    if not steps:
        return
    last = steps[-1]
    status.step = last["step"]
    status.stage, status.seq_length, status.loss = (last.get(k) for k in ("stage", "seq_length", "loss"))
    status.mfu, status.seconds_left = last.get("mfu"), last.get("seconds_left")
    status.last_step_age = max(0.0, time.time() - run.metrics.stat().st_mtime)
    rates = [r["tokens_per_second"] for r in steps[-_RATE_OF:] if r.get("tokens_per_second")]
    if rates:
        status.tokens_per_second = median(rates)


def _last_records(path: Path) -> list[dict[str, Any]]:
    """Return the last records of a file that may be gigabytes long."""
    found = []
    for line in read_tail(path, _TAIL_BYTES).split("\n"):
        try:
            record = json.loads(line)
        except ValueError:  # the first is cut, the last may be
            continue
        if isinstance(record, dict):
            found.append(record)
    return found


def _recipe(run: RunFiles, records: list[JobRecord]) -> Recipe | None:
    """Return the run's recipe: as it was submitted last, or as training has resolved it."""
    files = [run.jobs / f"{records[-1].submission:03}-recipe.yaml"] if records else []
    for file in [*files, run.run / "recipe.yaml"]:
        try:
            return load_yaml(Recipe, file)
        except RetrievaError:
            continue
    return None


def _go_on(run: RunFiles, records: list[JobRecord]) -> str | None:
    if not records:
        return None
    stem = run.jobs / f"{records[-1].submission:03}"
    try:
        spec = read_spec(Path(f"{stem}-job.json"))
    except LaunchError:
        return None
    command = ["retrieva", "launch", f"{stem}-recipe.yaml", "--cluster", f"{stem}-cluster.yaml"]
    command += ["--nodes", str(spec.nodes), "--processes", str(spec.processes_per_node)]
    return shlex.join(command)


def _flat(attempt: Attempt) -> dict[str, Any]:
    start = attempt.start.model_dump(exclude={"event", "time"})
    end = attempt.end.model_dump(exclude={"event", "time", "number"}) if attempt.end else {}
    ended = {"ended": attempt.end.time} if attempt.end else {}
    return {**start, "from_step": attempt.start.step, **end, "started": attempt.start.time, **ended}
