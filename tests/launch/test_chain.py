"""What a job's supervisor makes of the jobs around it: clients of a scheduler that write down what they are told."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from retrieva_pretrain.errors import LaunchError
from retrieva_pretrain.exit_codes import DONE, FAILED
from retrieva_pretrain.launch.attempts import AttemptEnd, AttemptStart, Cancelled, read_history
from retrieva_pretrain.launch.cancel import cancel_run
from retrieva_pretrain.launch.logs import follow
from retrieva_pretrain.launch.node import LEAVE_SIGNALS
from retrieva_pretrain.launch.preflight import plan_preflight, wait_for_result
from retrieva_pretrain.launch.profiles import load_profile
from retrieva_pretrain.launch.records import JobRecord, append_record, held, now
from retrieva_pretrain.launch.run_files import RunFiles
from retrieva_pretrain.launch.schedulers.inside import inside
from retrieva_pretrain.launch.spec import JobSpec
from retrieva_pretrain.launch.status import run_status
from retrieva_pretrain.launch.supervisor import Supervisor
from retrieva_pretrain.launch.train import active_jobs, launch_run
from retrieva_pretrain.recipe.execution import FaultsConfig
from retrieva_pretrain.recipe.loading import dump_yaml
from retrieva_pretrain.recipe.schema import Recipe
from tests.waiting import wait_until

MakeSpec = Callable[..., JobSpec]


@pytest.fixture(autouse=True)
def _signals_as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in LEAVE_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts clients on the PATH that write down what they are told; a job of the number 100 on two nodes."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, answer in {
        "sbatch": "101",
        "qsub": "101",
        "scancel": "",
        "qdel": "",
        "qstat": "<job_info/>",
        "scontrol": "n1\nn2",
        "squeue": "",
    }.items():
        client(folder, name, f"printf '%s\\n' '{answer}'")
    hosts = tmp_path / "hosts"
    hosts.write_text("n1 1 q@n1 UNDEFINED\nn2 1 q@n2 UNDEFINED\n")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    for name, value in {
        "SLURM_JOB_ID": "100",
        "SLURM_JOB_NODELIST": "n[1-2]",
        "JOB_ID": "100",
        "PE_HOSTFILE": str(hosts),
    }.items():
        monkeypatch.setenv(name, value)
    return folder


def client(folder: Path, name: str, what: str) -> None:
    path = folder / name
    path.write_text(f'#!/bin/bash\necho "{name} $*" >> {folder}/told\n{what}\n')
    path.chmod(0o755)


def told(clients: Path, name: str) -> list[str]:
    """The calls of one client."""
    path = clients / "told"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in lines if line.split()[0] == name]


@pytest.fixture
def spec(tmp_path: Path) -> MakeSpec:
    """Returns the settings of a job, with changes to a profile."""

    def make(profile: str, *changes: str, nodes: int = 2, **more: int) -> JobSpec:
        run = tmp_path / "run"
        for folder in (run / "jobs", run / "logs"):
            folder.mkdir(parents=True, exist_ok=True)
        return JobSpec(
            run=run,
            submission=1,
            recipe=None,
            arguments=["train"],
            program=run / "program",
            script=run / "jobs" / "001-train.sh",
            nodes=nodes,
            processes_per_node=1,
            threads=1,
            profile=load_profile(profile, list(changes)),
            max_failures=more.get("max_failures", 3),
            max_preemptions=more.get("max_preemptions", 100),
        )

    return make


def supervised(spec: JobSpec, *command: str, lock_patience: float = 0) -> int:
    job = inside(spec.profile)
    return Supervisor(spec, command or ["false"], job, lock_patience=lock_patience).run()


def ends(spec: JobSpec) -> list[AttemptEnd]:
    return [a.end for a in read_history(spec.files.attempts).attempts if a.end is not None]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [("echo n1", "the job has 1 nodes (n1), not 2"), ("echo 'no such list' >&2; exit 1", "no such list")],
)
def test_a_job_with_other_nodes_stops_the_chain_before_another_is_submitted(
    answer: str, reason: str, clients: Path, spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    client(clients, "scontrol", answer)
    job = spec("slurm-h100", "account=a", "training.goes_on=follow_up")
    assert supervised(job) == FAILED
    assert told(clients, "sbatch") == []
    (end,) = ends(job)
    assert end.outcome == "stopped"
    assert reason in end.reason
    # Another that waits already, as those of `launch --jobs`, finds nothing to do, whatever its nodes.
    client(clients, "scontrol", "printf 'n1\\nn2\\n'")
    monkeypatch.setenv("SLURM_JOB_ID", "101")
    assert supervised(job) == FAILED
    assert ends(job) == [end]
    assert told(clients, "sbatch") == []


def test_a_remote_shell_that_cannot_be_run_stops_the_chain_and_takes_the_next_job_out_of_the_queue(
    clients: Path, spec: MakeSpec
) -> None:
    changes = ["training.goes_on=follow_up", "training.remote_shell=[/no/such/qrsh]"]
    job = spec("tsubame4", *changes)
    assert supervised(job, "sleep", "600") == FAILED
    assert len(told(clients, "qsub")) == 1
    assert told(clients, "qdel") == ["qdel 101"]
    (end,) = ends(job)
    assert end.outcome == "stopped"
    assert "training.remote_shell of the cluster's profile: /no/such/qrsh: cannot be run" in end.reason
    # What was started here for the first node has ended.
    assert [p for p in psutil.Process().children(recursive=True) if "sleep" in p.name()] == []
    assert run_status(job.files).reason == end.reason


def test_a_second_supervisor_of_a_run_starts_nothing(
    clients: Path, spec: MakeSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    job = spec("slurm-h100", "account=a", "training.goes_on=follow_up")
    with held(job.files.jobs / "running") as mine:
        assert mine
        assert supervised(job) == FAILED
    assert "another job of this run is at work; this one ends" in capsys.readouterr().out
    assert not job.files.attempts.exists()
    assert told(clients, "sbatch") == []


def test_a_job_waits_for_the_lock_that_a_lost_node_still_holds(
    clients: Path, spec: MakeSpec, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retrieva_pretrain.launch.supervisor._LOCK_INTERVAL_SECONDS", 0.2)
    job = spec("slurm-h100", "account=a", max_failures=1)
    with ExitStack() as lost:
        assert lost.enter_context(held(job.files.jobs / "running"))
        freed = threading.Timer(1, lost.close)
        freed.start()
        supervised(job, lock_patience=600)
        freed.join()
    assert "waiting for up to 600 s" in capsys.readouterr().out
    assert [end.outcome for end in ends(job)] == ["stopped"]
    assert "1 attempts in a row without a new checkpoint" in ends(job)[0].reason


@pytest.mark.parametrize("goes_on", ["requeue", "follow_up"])
def test_a_run_that_is_cancelled_between_two_attempts_does_not_go_on(
    goes_on: str, clients: Path, spec: MakeSpec
) -> None:
    job = spec("slurm-h100", "account=a", f"training.goes_on={goes_on}", max_failures=100)

    def cancel() -> None:
        wait_until("the end of an attempt", lambda: bool(ends(job)))
        # As `retrieva cancel` does: written first, and then the job is told.
        append_record(job.files.attempts, Cancelled(time=now(), submission=1))
        os.kill(os.getpid(), signal.SIGUSR1)

    cancelling = threading.Thread(target=cancel)
    cancelling.start()
    assert supervised(job) == DONE
    cancelling.join()
    assert [line for line in told(clients, "scontrol") if "requeue" in line] == []
    assert told(clients, "scancel") == (["scancel 101"] if goes_on == "follow_up" else [])
    assert ends(job)[-1].outcome == "cancelled"
    assert ends(job)[-1].reason.startswith("cancelled by `retrieva cancel`")
    assert run_status(job.files).preemptions == 0


@pytest.mark.parametrize("allowed", [2, 3])
def test_a_run_that_is_killed_too_often_stays_so(
    allowed: int, clients: Path, spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = spec("slurm-h100", "account=a", max_preemptions=allowed, max_failures=1)
    for number in (1, 2):
        # Killed together with its supervisor: nobody has written an end.
        start = AttemptStart(
            time=now(), number=number, submission=1, job_id="100", hosts=["n1", "n2"], processes=2, step=0
        )
        append_record(job.files.attempts, start)
        if number == 1:
            end = AttemptEnd(time=now(), number=1, outcome="interrupted", reason="preempted", step=0)
            append_record(job.files.attempts, end)
    assert supervised(job) == FAILED
    last = ends(job)[-1]
    assert last.outcome == "stopped"
    if allowed == 2:
        assert last.number == 2
        assert last.reason == "ended from outside 2 times; training.max_preemptions allows no more"
    else:
        assert [end.outcome for end in ends(job)] == ["interrupted", "killed", "stopped"]
        assert "could not be started" in last.reason
    # And another job finds nothing to do.
    before = len(ends(job))
    monkeypatch.setenv("SLURM_JOB_ID", "101")
    assert supervised(job) == FAILED
    assert len(ends(job)) == before


def test_a_process_of_another_machine_is_not_taken_for_dead(
    small_recipe: Callable[..., Recipe], stand_in: None
) -> None:
    recipe = small_recipe()
    run = RunFiles(recipe.run_folder)
    run.logs.mkdir(parents=True)
    job = "otherhost:4242:1790000000"
    record = JobRecord(
        time=now(), submission=1, kind="train", scheduler="local", job_id=job, script="x", command=["bash"]
    )
    append_record(run.records, record)
    start = AttemptStart(
        time=now(), number=1, submission=1, job_id=job, hosts=["otherhost"], processes=1, step=0
    )
    append_record(run.attempts, start)
    failed = AttemptEnd(time=now(), number=1, outcome="failed", reason="NCCL", step=0)
    for _ in range(2):
        status = run_status(run)
        assert (status.state, status.go_on) == ("unknown", None)
        assert status.jobs[0].state.startswith(f"unknown: job {job} is a process of otherhost; ask there")
        with pytest.raises(LaunchError, match="is a process of otherhost; ask there"):
            launch_run(recipe, load_profile("local", ["training.processes_per_node=1"]))
        with pytest.raises(LaunchError, match="is a process of otherhost; ask there"):
            cancel_run(run)
        # After a failure its supervisor may be about to start again.
        append_record(run.attempts, failed)
    # Of what is known to be over nobody has to be asked.
    append_record(run.attempts, failed.model_copy(update={"outcome": "left", "reason": "told to"}))
    assert run_status(run).state == "left"
    assert active_jobs(run) == []


def test_the_scheduler_is_not_asked_while_a_log_is_written_and_seldom_when_it_is_not(tmp_path: Path) -> None:
    run = RunFiles(tmp_path / "run")
    run.logs.mkdir(parents=True)
    log = run.logs / "001-train-100.log"
    log.write_text("before\n")
    asked: list[float] = []

    def goes_on() -> bool:
        asked.append(time.monotonic())
        if len(asked) == 2:
            raise LaunchError("Unable to contact slurm controller")
        return len(asked) < 4

    shown, wrote = [], 0.0
    for text in follow(run, lines=1, goes_on=goes_on, ask_seconds=0.7):
        shown.append(text)
        if len(shown) < 5:
            with log.open("a") as stream:
                stream.write(f"line {len(shown)}\n")
            wrote = time.monotonic()
    assert shown == ["before\n", "line 1\n", "line 2\n", "line 3\n", "line 4\n"]
    assert len(asked) == 4
    # Once at first, and not again before everything was shown.
    assert asked[0] < wrote < asked[1]
    assert all(later - earlier >= 0.7 for earlier, later in pairwise(asked))


def test_a_follower_is_told_at_once_that_a_scheduler_cannot_be_asked(tmp_path: Path) -> None:
    def goes_on() -> bool:
        raise LaunchError("squeue is not on the PATH")

    with pytest.raises(LaunchError, match="squeue is not"):
        list(follow(RunFiles(tmp_path), goes_on=goes_on))


@pytest.mark.slow
def test_a_preflight_asks_its_scheduler_seldom(tmp_path: Path, clients: Path) -> None:
    changes = ["account=a", "gpus_per_node=0", "training.processes_per_node=1"]
    planned = plan_preflight(load_profile("slurm-h100", changes), tmp_path / "preflight", nodes=2)
    planned.folder.mkdir()
    # Twice what it is, and twice that it is gone: a while later, since a result may come late.
    client(
        clients,
        "squeue",
        f"n=$(grep -c ^squeue {clients}/told)\n"
        'case "$*" in *%K*) [ "$n" -gt 3 ] || echo "100|N/A|RUNNING";; *) echo "100|RUNNING|None|N/A|0:01|n1";; esac',
    )
    said: list[str] = []
    with pytest.raises(LaunchError, match="the preflight ended without a result"):
        wait_for_result(planned, "100", said.append, ask_seconds=1)
    assert said == ["job 100: running for 0:01 on n1"]
    assert len(told(clients, "squeue")) == 6


@pytest.mark.parametrize(("step_timeout", "seconds"), [(600, 660), (5, 120), (None, 120)])
def test_a_node_that_hangs_may_go_on_until_its_watchdog_has_spoken(
    step_timeout: float | None,
    seconds: float,
    clients: Path,
    spec: MakeSpec,
    small_recipe: Callable[..., Recipe],
) -> None:
    job = spec("slurm-h100", "account=a")
    if step_timeout is not None:
        recipe = small_recipe().model_copy(update={"faults": FaultsConfig(step_timeout=step_timeout)})
        file = job.files.jobs / "001-recipe.yaml"
        file.write_text(dump_yaml(recipe))
        job = job.model_copy(update={"recipe": file})
    assert Supervisor(job, ["false"], inside(job.profile))._stragglers_seconds() == seconds
