"""The true engine through the jobs of a real Slurm: the same losses as a run that nobody disturbs."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_prep.tokenizer import Tokenizer
from retrieva_pretrain.launch.attempts import read_history
from retrieva_pretrain.launch.profiles import load_profile
from retrieva_pretrain.launch.run_files import RunFiles
from retrieva_pretrain.launch.status import run_status
from retrieva_pretrain.launch.train import active_jobs, launch_run
from retrieva_pretrain.launch.watch import stay_until_the_end
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.report.metrics import read_metrics

REPOSITORY = Path(__file__).resolve().parents[3]
PROFILE = Path(__file__).parent / "profiles" / "slurm-training.yaml"
STEPS = 500

pytestmark = [pytest.mark.slow, pytest.mark.engine, pytest.mark.xdist_group("schedulers")]


@pytest.fixture
def recipe(
    tmp_path: Path, make_corpus: Callable[..., Path], small_tokenizer: Tokenizer
) -> Callable[[str], Recipe]:
    """Returns a recipe of two stages over a small corpus, by the name of its run."""
    draw = random.Random(1)
    ordinary = [i for i in range(small_tokenizer.vocab_size) if i not in small_tokenizer.special_ids]
    texts = [draw.choices(ordinary[200:300], k=draw.randint(5, 90)) for _ in range(300)]
    prefix = make_corpus(tmp_path / "data", "a", texts)
    changes = [
        f"runs_dir={tmp_path}/runs",
        f"tokenizer.model={small_tokenizer.path}",
        f"data.blend=[{{path: {prefix}}}]",
        "model.num_layers=1",
        "model.hidden_size=32",
        "model.ffn_hidden_size=48",
        "global_batch_size=4",
        f"curriculum=[{{seq_length: 16, train_iters: {STEPS - 100}, max_micro_batch_size: 4}},"
        " {seq_length: 32, train_iters: 100, max_micro_batch_size: 4}]",
        "checkpoint={save_interval: 100, keep: 2}",
        "evaluation={eval_interval: 1000, samples_per_corpus: 2}",
        "logging={log_interval: 100, tensorboard: false}",
    ]
    file = Path(__file__).parents[2] / "recipe" / "small.yaml"
    return lambda name: load_yaml(Recipe, file, [*changes, f"name={name}"])


def losses(run: RunFiles) -> list[tuple[int, float]]:
    return [(r["step"], r["loss"]) for r in read_metrics(run.metrics) if r["kind"] == "train"]


def told(run: RunFiles) -> str:
    texts: list[Any] = sorted(run.logs.rglob("*.log"))
    return "\n".join(
        [run.attempts.read_text(), *(f"== {path}\n{path.read_text()[-2000:]}" for path in texts)]
    )


def test_a_run_over_two_nodes_that_its_time_limit_cuts_has_the_losses_of_an_undisturbed_one(
    slurm: object, recipe: Callable[[str], Recipe], wait_for: Callable[..., None]
) -> None:
    helped = subprocess.run(
        [sys.executable, "-m", "retrieva_pretrain", "train", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    if "--exit-before" not in helped.stdout:
        pytest.skip("`retrieva train` has no --exit-before")
    began = time.monotonic()
    here = launch_run(recipe("here"), load_profile("local", ["training.processes_per_node=2"]))
    assert stay_until_the_end(here.run, str(here.job_id)) == 0, told(here.run)
    whole = time.monotonic() - began
    assert len(losses(here.run)) == STEPS

    # Enough time to start and to get some way, not to get to the end.
    minutes = int(whole * 0.75 / 60) + 1
    rest = max(1, round(minutes * 60 - whole * 0.75))
    limits = [
        f"walltime=00:{minutes:02}:00",
        f'training.leave_before_end="00:{rest // 60:02}:{rest % 60:02}"',
    ]
    there = launch_run(recipe("there"), load_profile(str(PROFILE), limits), nodes=2)
    wait_for("the end of the run's jobs", lambda: not active_jobs(there.run), 570)
    assert run_status(there.run).state == "done", told(there.run)
    history = read_history(there.run.attempts).attempts
    assert [a.end.outcome for a in history if a.end] == ["left"] * (len(history) - 1) + ["done"], told(
        there.run
    )
    assert len(history) >= 2
    assert all(attempt.start.hosts == ["n1", "n2"] for attempt in history)
    assert losses(there.run) == losses(here.run)
