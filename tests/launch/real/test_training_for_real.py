"""A run goes through the jobs of a real scheduler until its recipe is done, and stops where it must."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest

from retrieva_pretrain.errors import LaunchError
from retrieva_pretrain.launch.attempts import read_history
from retrieva_pretrain.launch.cancel import cancel_run
from retrieva_pretrain.launch.logs import last_words
from retrieva_pretrain.launch.preflight import plan_preflight, submit_preflight, wait_for_result
from retrieva_pretrain.launch.profiles import ClusterProfile, load_profile
from retrieva_pretrain.launch.records import read_records
from retrieva_pretrain.launch.run_files import RunFiles
from retrieva_pretrain.launch.status import RunStatus, run_status
from retrieva_pretrain.launch.train import active_jobs, launch_run
from retrieva_pretrain.recipe.schema import Recipe
from tests.waiting import wait_until

REPOSITORY = Path(__file__).resolve().parents[3]
PROFILES = Path(__file__).parent / "profiles"

STEPS = {"slurm": 600, "grid_engine": 250}
"""Of a tenth of a second: more than there is time for before a job leaves, 45 and 15 seconds after its start."""

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("schedulers")]


class Cluster(Protocol):
    def ask(self, *command: str) -> str: ...


def profile_of(kind: str, *overrides: str) -> ClusterProfile:
    # The stand-in's program lies outside the package; jobs must find these sources.
    these = f"environment_variables={{PYTHONPATH: {REPOSITORY}}}"
    return load_profile(str(PROFILES / f"{kind}-training.yaml"), [these, *overrides])


def ended(run: RunFiles) -> RunStatus:
    """Where a run stands when no job of it waits or runs any more."""
    wait_until("the end of the run's jobs", lambda: not active_jobs(run), 1800)
    return run_status(run)


def told(run: RunFiles) -> str:
    """All that could explain a test that fails."""
    texts = [run.attempts] if run.attempts.exists() else []
    texts += sorted(path for path in run.logs.rglob("*.log"))
    return "\n".join(f"== {path}\n{path.read_text()[-3000:]}" for path in texts)


def outcomes(run: RunFiles) -> list[str]:
    return [a.end.outcome if a.end else "open" for a in read_history(run.attempts).attempts]


def test_a_run_is_requeued_at_its_time_limit_until_the_recipe_is_done(
    kind: str,
    stand_in: None,
    small_recipe: Callable[..., Recipe],
) -> None:
    nodes = 2 if kind == "slurm" else 1
    launched = launch_run(small_recipe(steps=STEPS[kind]), profile_of(kind), nodes=nodes)
    status = ended(launched.run)
    assert status.state == "done", told(launched.run)
    assert (status.step, status.checkpoint_step) == (STEPS[kind], STEPS[kind])
    found = outcomes(launched.run)
    assert found[-1] == "done"
    assert set(found[:-1]) == {"left"}, told(launched.run)
    assert len(found) >= 2
    history = read_history(launched.run.attempts).attempts
    assert {attempt.start.job_id for attempt in history} == {launched.job_id}
    assert all(attempt.start.processes == 2 for attempt in history)
    if kind == "slurm":
        assert {tuple(attempt.start.hosts) for attempt in history} == {("n1", "n2")}
    # Every attempt went on from the checkpoint of the one before.
    assert [a.start.step for a in history[1:]] == [a.end.step for a in history[:-1] if a.end]
    with pytest.raises(LaunchError, match="is trained to the end"):
        launch_run(small_recipe(steps=STEPS[kind]), profile_of(kind), nodes=nodes)


def test_where_no_requeue_is_allowed_every_job_submits_the_next_one(
    kind: str,
    stand_in: None,
    small_recipe: Callable[..., Recipe],
) -> None:
    launched = launch_run(small_recipe(steps=STEPS[kind]), profile_of(kind, "training.goes_on=follow_up"))
    assert ended(launched.run).state == "done", told(launched.run)
    jobs = [record.job_id for record in read_records(launched.run.records)]
    history = read_history(launched.run.attempts).attempts
    assert len(history) >= 2
    assert [attempt.start.job_id for attempt in history] == jobs[: len(history)], told(launched.run)
    # The one that would have come after the last was taken out of the queue.
    assert len(jobs) == len(history) + 1


def test_jobs_that_were_submitted_ahead_take_over_from_each_other_and_the_rest_leave_the_queue(
    kind: str,
    stand_in: None,
    small_recipe: Callable[..., Recipe],
) -> None:
    launched = launch_run(small_recipe(steps=STEPS[kind]), profile_of(kind), jobs=12)
    assert ended(launched.run).state == "done", told(launched.run)
    jobs = [record.job_id for record in read_records(launched.run.records)]
    history = read_history(launched.run.attempts).attempts
    assert len(jobs) == 12
    assert 2 <= len(history) < 12
    assert [attempt.start.job_id for attempt in history] == jobs[: len(history)], told(launched.run)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("refused", "model.num_layers: cannot be so"), ("memory", "out of memory, rank")],
)
def test_what_a_retry_cannot_mend_stops_the_run_and_says_why(
    kind: str,
    name: str,
    reason: str,
    stand_in: None,
    small_recipe: Callable[..., Recipe],
) -> None:
    launched = launch_run(small_recipe(name), profile_of(kind, "training.goes_on=follow_up"))
    status = ended(launched.run)
    assert status.state == "stopped", told(launched.run)
    assert reason in status.reason
    assert outcomes(launched.run) == ["stopped"]
    assert "launch" in str(status.go_on)


def test_a_fault_that_passes_is_tried_again_in_the_same_job_and_one_that_stays_is_not_for_ever(
    slurm: Cluster,
    stand_in: None,
    small_recipe: Callable[..., Recipe],
) -> None:
    profile = profile_of("slurm", "walltime=00:20:00", "training.max_failures=2")
    once = launch_run(small_recipe("torn-once"), profile, nodes=2)
    assert ended(once.run).state == "done", told(once.run)
    assert outcomes(once.run) == ["failed", "done"]
    first = last_words(once.run, attempt=1)
    # The rank that failed first speaks first, not the one that lost its peer.
    assert first.startswith("rank 1 failed first")
    assert first.index("ValueError: the cause") < first.index("Connection closed by peer")

    always = launch_run(small_recipe("fails"), profile, nodes=2)
    status = ended(always.run)
    assert outcomes(always.run) == ["failed", "stopped"], told(always.run)
    assert re.search(
        r"2 attempts in a row without a new checkpoint.*a fault that comes every time", status.reason
    )


def test_a_requeue_from_outside_and_a_kill_are_counted_and_survived(
    slurm: Cluster,
    stand_in: None,
    small_recipe: Callable[..., Recipe],
) -> None:
    launched = launch_run(small_recipe(steps=250), profile_of("slurm", "walltime=00:20:00"))
    wait_until("a checkpoint", lambda: launched.run.newest_step() >= 10)
    slurm.ask("scontrol", "requeue", str(launched.job_id))
    status = ended(launched.run)
    assert status.state == "done", told(launched.run)
    assert outcomes(launched.run)[0] in ("interrupted", "killed")
    assert outcomes(launched.run)[-1] == "done"
    assert status.preemptions == 1
    assert read_history(launched.run.attempts).attempts[1].start.step >= 10


def test_a_cancelled_run_saves_leaves_the_queue_and_can_be_launched_again_with_other_nodes(
    kind: str,
    stand_in: None,
    small_recipe: Callable[..., Recipe],
) -> None:
    profile = profile_of(kind, "walltime=00:20:00", 'training.leave_before_end="00:00:10"')
    recipe = small_recipe(steps=150)
    launched = launch_run(recipe, profile)
    wait_until("a step", launched.run.metrics.exists)
    assert run_status(launched.run).state == "running"
    with pytest.raises(LaunchError, match=f"under way as job {launched.job_id}"):
        launch_run(recipe, profile)
    assert cancel_run(launched.run) == [launched.job_id]
    status = ended(launched.run)
    assert status.state == "cancelled", told(launched.run)
    assert outcomes(launched.run) == ["cancelled"]
    saved = launched.run.newest_step()
    assert 0 < saved < 150
    assert cancel_run(launched.run) == []

    again = launch_run(recipe, profile, nodes=2 if kind == "slurm" else 1)
    assert ended(again.run).state == "done", told(again.run)
    last = read_history(again.run.attempts).attempts[-1].start
    assert (last.step, last.submission) == (saved, 2)


def test_a_job_that_waits_is_shown_with_its_reason_and_leaves_the_queue_when_cancelled(
    slurm: Cluster, stand_in: None, small_recipe: Callable[..., Recipe]
) -> None:
    with pytest.raises(LaunchError, match="walltime 24:00:01 is over the 24:00 hours"):
        launch_run(small_recipe(), profile_of("slurm", "walltime=24:00:01"))
    with pytest.raises(LaunchError, match="invalid partition specified"):
        launch_run(small_recipe(), profile_of("slurm", "partition=nowhere"))
    assert not list(RunFiles(Path(small_recipe().runs_dir) / "small").jobs.glob("001-*"))
    launched = launch_run(small_recipe(), profile_of("slurm", "extra_directives=[--hold]"))
    status = run_status(launched.run)
    assert status.state == "waiting"
    assert "pending (JobHeldUser" in status.reason
    cancel_run(launched.run)
    assert run_status(launched.run).state == "cancelled"


def test_a_preflight_measures_the_nodes_of_a_cluster(kind: str, tmp_path: Path) -> None:
    nodes = 2 if kind == "slurm" else 1
    planned = plan_preflight(profile_of(kind), tmp_path / "preflight", nodes=nodes)
    result = wait_for_result(planned, submit_preflight(planned), print)
    levels = {finding["check"]: finding["level"] for finding in result["findings"]}
    assert "red" not in levels.values(), result["findings"]
    assert {rank["node"] for rank in result["ranks"]} == set(range(nodes))
    assert levels["all-reduce of all nodes"] == ("green" if nodes == 2 else "none")
