"""The demo through the jobs of a real scheduler, as a user types it: the losses of a run that nobody disturbs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from retrieva_pretrain.bundled import recipes_folder
from retrieva_pretrain.launch.attempts import read_history
from retrieva_pretrain.launch.run_files import RunFiles
from retrieva_pretrain.report.metrics import read_metrics
from tests.fast_path import FAST_PATH
from tests.waiting import PATIENCE, wait_until

REPOSITORY = Path(__file__).resolve().parents[3]
PROFILES = Path(__file__).parent / "profiles"
STEPS = 240
MOST_ATTEMPTS = 5
# All four stages, and the shape of the demo; a fifth of its steps.
SHORT = [
    "curriculum=[{seq_length: 16, train_iters: 120, max_micro_batch_size: 64},"
    " {seq_length: 32, train_iters: 70, max_micro_batch_size: 32},"
    " {seq_length: 64, train_iters: 40, max_micro_batch_size: 16},"
    " {seq_length: 128, train_iters: 10, max_micro_batch_size: 8}]",
    "checkpoint.save_interval=60",
    "evaluation={eval_interval: 120, samples_per_corpus: 8}",
    "logging.log_interval=10",
    # What a cluster with GPUs runs.
    *FAST_PATH,
]
PREPARE = REPOSITORY / "benchmarks" / "gpu" / "demo_data.py"

pytestmark = [pytest.mark.slow, pytest.mark.engine, pytest.mark.xdist_group("schedulers")]


@dataclass(frozen=True)
class Demo:
    """A folder with the demo's corpora."""

    folder: Path

    def retrieva(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "retrieva_pretrain", *words]
        return subprocess.run(
            command, cwd=self.folder, env=environment(), capture_output=True, text=True, check=False
        )

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start a command that goes on by itself; its output goes into a file of its name."""
        with (self.folder / f"{words[0]}.txt").open("w") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "retrieva_pretrain", *words],
                cwd=self.folder,
                env=environment(),
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
            )

    def launch(self, name: str, *words: str) -> subprocess.CompletedProcess[str]:
        return self.retrieva("launch", str(recipes_folder() / "demo.yaml"), f"name={name}", *SHORT, *words)

    def run(self, name: str) -> RunFiles:
        return RunFiles(self.folder / "demo" / "runs" / name)

    def status(self, name: str) -> dict[str, Any]:
        shown: dict[str, Any] = json.loads(self.retrieva("status", f"demo/runs/{name}", "--json").stdout)
        return shown


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}


def losses(run: RunFiles) -> list[tuple[int, float]]:
    return [(r["step"], r["loss"]) for r in read_metrics(run.metrics) if r["kind"] == "train"]


def told(run: RunFiles) -> str:
    """All that could explain a test that fails."""
    texts = [f"== {path}\n{path.read_text()[-2000:]}" for path in sorted(run.logs.rglob("*.log"))]
    return "\n".join([run.attempts.read_text() if run.attempts.exists() else "no attempt", *texts])


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    folder = tmp_path_factory.mktemp("demo")
    subprocess.run([sys.executable, str(PREPARE), str(folder)], cwd=folder, env=environment(), check=True)
    return Demo(folder)


@dataclass(frozen=True)
class Undisturbed:
    """A run of this machine that nobody disturbs."""

    losses: list[tuple[int, float]]
    start_seconds: float
    """All that is not a step: the start of the processes, evaluations, checkpoints; and the first step."""
    step_seconds: float


@pytest.fixture(scope="module")
def undisturbed(demo: Demo) -> Undisturbed:
    began = time.monotonic()
    done = demo.launch("here", "--processes", "2")
    seconds = time.monotonic() - began
    assert done.returncode == 0, done.stdout + done.stderr
    run = demo.run("here")
    found = losses(run)
    assert [step for step, _ in found] == list(range(1, STEPS + 1))
    in_steps = sum(
        r["step_seconds"] for r in read_metrics(run.metrics) if r["kind"] == "train" and r["step"] > 1
    )
    return Undisturbed(found, seconds - in_steps, in_steps)


def through_time_limits(demo: Demo, kind: str, name: str, seconds: float) -> RunFiles:
    """Train in jobs that leave after so many seconds; return when the run has ended or was in too many of them."""
    nodes = "2" if kind == "slurm" else "1"
    # The scheduler's own limit is minutes away: a start on a machine that is busy by now may take that long.
    minutes = int(seconds / 60) + 5
    leave = round(minutes * 60 - seconds)
    profile = ("--cluster", str(PROFILES / f"{kind}-training.yaml"))
    submitted = demo.launch(
        name,
        *(*profile, "--nodes", nodes),
        *("--set", f"walltime=00:{minutes:02}:00"),
        *("--set", f'training.leave_before_end="00:{leave // 60:02}:{leave % 60:02}"'),
    )
    assert submitted.returncode == 0, submitted.stderr
    assert f"2 processes on {nodes} node" in submitted.stdout
    again = demo.launch(name, *profile)
    assert again.returncode == 1
    assert "this run is under way as job" in again.stderr
    run = demo.run(name)
    watching = [
        demo.start("status", f"demo/runs/{name}", "--watch", "--interval", "2"),
        demo.start("logs", f"demo/runs/{name}", "--follow"),
    ]
    try:
        wait_until(
            f"the end of {name}, or {MOST_ATTEMPTS + 1} attempts",
            lambda: (
                watching[0].poll() is not None or len(read_history(run.attempts).attempts) > MOST_ATTEMPTS
            ),
            seconds=3 * PATIENCE,
        )
        if watching[0].poll() is None:
            assert demo.retrieva("cancel", f"demo/runs/{name}").returncode == 0
        assert watching[0].wait(PATIENCE) == watching[1].wait(PATIENCE) == 0, told(run)
    finally:
        for process in watching:
            process.kill()
            process.wait()
    return run


def test_the_demo_goes_through_time_limits_to_the_losses_of_an_undisturbed_run(
    kind: str, demo: Demo, undisturbed: Undisturbed
) -> None:
    # Two attempts at today's pace. Where the machine has become less busy or busier since: less or more time.
    seconds = undisturbed.start_seconds + 0.6 * undisturbed.step_seconds
    for number in range(5):
        name = f"{kind}-{number}"
        run = through_time_limits(demo, kind, name, seconds)
        history = read_history(run.attempts).attempts
        if 2 <= len(history) <= MOST_ATTEMPTS:
            break
        seconds *= 0.75 if len(history) < 2 else 1.5
    status = demo.status(name)
    assert (status["state"], status["step"], status["checkpoint_step"]) == ("done", STEPS, STEPS), told(run)
    ends = [attempt.end.outcome for attempt in history if attempt.end]
    assert ends == ["left"] * (len(history) - 1) + ["done"], told(run)
    # One job, put back into the queue.
    assert len({attempt.start.job_id for attempt in history}) == 1
    if kind == "slurm":
        assert all(attempt.start.hosts == ["n1", "n2"] for attempt in history)
    assert losses(run) == undisturbed.losses
    watched = (demo.folder / "status.txt").read_text()
    assert "state       running" in watched
    assert f"step        {STEPS} of {STEPS}, stage 4 of 4, length 128" in watched
    followed = (demo.folder / "logs.txt").read_text()
    assert "checkpoint step_" in followed
    assert "back into the queue" in followed
    refused = demo.launch(name, "--cluster", str(PROFILES / f"{kind}-training.yaml"))
    assert "is trained to the end of the recipe" in refused.stderr
