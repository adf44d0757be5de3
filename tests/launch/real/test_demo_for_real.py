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

REPOSITORY = Path(__file__).resolve().parents[3]
PROFILES = Path(__file__).parent / "profiles"
STEPS = 240
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


@pytest.fixture(scope="module")
def undisturbed(demo: Demo) -> tuple[list[tuple[int, float]], float]:
    """The losses of a run of this machine that nobody disturbs, and the seconds it took."""
    began = time.monotonic()
    done = demo.launch("here", "--processes", "2")
    seconds = time.monotonic() - began
    assert done.returncode == 0, done.stdout + done.stderr
    found = losses(demo.run("here"))
    assert [step for step, _ in found] == list(range(1, STEPS + 1))
    return found, seconds


def test_the_demo_goes_through_time_limits_to_the_losses_of_an_undisturbed_run(
    kind: str, demo: Demo, undisturbed: tuple[list[tuple[int, float]], float]
) -> None:
    expected, seconds = undisturbed
    nodes = "2" if kind == "slurm" else "1"
    # A machine that is less busy by now may get to the end in one go: then with less time.
    for share in (0.75, 0.6, 0.45):
        name = f"{kind}-{share}"
        budget = seconds * share
        minutes = int(budget / 60) + 1
        rest = round(minutes * 60 - budget)
        submitted = demo.launch(
            name,
            *("--cluster", str(PROFILES / f"{kind}-training.yaml"), "--nodes", nodes),
            *("--set", f"walltime=00:{minutes:02}:00"),
            *("--set", f'training.leave_before_end="00:{rest // 60:02}:{max(rest % 60, 1):02}"'),
        )
        assert submitted.returncode == 0, submitted.stderr
        assert f"2 processes on {nodes} node" in submitted.stdout
        again = demo.launch(name, "--cluster", str(PROFILES / f"{kind}-training.yaml"))
        assert again.returncode == 1
        assert "this run is under way as job" in again.stderr
        run = demo.run(name)
        watching = [
            demo.start("status", f"demo/runs/{name}", "--watch", "--interval", "2"),
            demo.start("logs", f"demo/runs/{name}", "--follow"),
        ]
        try:
            assert watching[0].wait(1800) == watching[1].wait(60) == 0, told(run)
        finally:
            for process in watching:
                process.kill()
        history = read_history(run.attempts).attempts
        if len(history) >= 2:
            break
    status = demo.status(name)
    assert (status["state"], status["step"], status["checkpoint_step"]) == ("done", STEPS, STEPS), told(run)
    ends = [attempt.end.outcome for attempt in history if attempt.end]
    assert ends == ["left"] * (len(history) - 1) + ["done"], told(run)
    # One job, put back into the queue.
    assert len({attempt.start.job_id for attempt in history}) == 1
    if kind == "slurm":
        assert all(attempt.start.hosts == ["n1", "n2"] for attempt in history)
    assert losses(run) == expected
    watched = (demo.folder / "status.txt").read_text()
    assert "state       running" in watched
    assert f"step        {STEPS} of {STEPS}, stage 4 of 4, length 128" in watched
    followed = (demo.folder / "logs.txt").read_text()
    assert "checkpoint step_" in followed
    assert "back into the queue" in followed
    refused = demo.launch(name, "--cluster", str(PROFILES / f"{kind}-training.yaml"))
    assert "is trained to the end of the recipe" in refused.stderr
