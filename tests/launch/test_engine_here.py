"""The true engine under the supervisor of this machine: what its own ends make of a run."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from data_prep.tokenizer import Tokenizer
from retrieva_pretrain.exit_codes import DONE, FAILED
from retrieva_pretrain.launch.attempts import read_history
from retrieva_pretrain.launch.logs import last_words
from retrieva_pretrain.launch.profiles import load_profile
from retrieva_pretrain.launch.status import run_status
from retrieva_pretrain.launch.train import launch_run
from retrieva_pretrain.launch.watch import stay_until_the_end
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe
from tests.waiting import wait_until

TWO = ["training.processes_per_node=2"]

pytestmark = [pytest.mark.slow, pytest.mark.engine]


@pytest.fixture
def recipe(
    tmp_path: Path, make_corpus: Callable[..., Path], small_tokenizer: Tokenizer
) -> Callable[..., Recipe]:
    """Returns a small recipe with changes."""
    draw = random.Random(1)
    ordinary = [i for i in range(small_tokenizer.vocab_size) if i not in small_tokenizer.special_ids]
    texts = [draw.choices(ordinary[200:300], k=draw.randint(5, 90)) for _ in range(300)]
    prefix = make_corpus(tmp_path / "data", "a", texts)
    always = [
        f"runs_dir={tmp_path}/runs",
        f"tokenizer.model={small_tokenizer.path}",
        f"data.blend=[{{path: {prefix}}}]",
        "global_batch_size=4",
        "curriculum=[{seq_length: 16, train_iters: 60, max_micro_batch_size: 4}]",
        "checkpoint={save_interval: 20, keep: 2}",
        "evaluation={eval_interval: 1000, samples_per_corpus: 2}",
        "logging={log_interval: 10, tensorboard: false}",
    ]
    file = Path(__file__).parents[1] / "recipe" / "small.yaml"
    return lambda *changes: load_yaml(Recipe, file, [*always, *changes])


def rank_of(process: psutil.Process) -> str | None:
    try:
        return process.environ().get("RANK")
    except (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):  # it ends at this moment
        return None


def test_losses_that_are_not_finite_end_the_run_at_once_and_say_so(recipe: Callable[..., Recipe]) -> None:
    wild = recipe("optimizer.lr=1e30", "optimizer.min_lr=1e30", "faults.max_consecutive_skips=3")
    launched = launch_run(wild, load_profile("local", TWO))
    assert stay_until_the_end(launched.run, str(launched.job_id)) == FAILED
    (attempt,) = read_history(launched.run.attempts).attempts
    assert attempt.end is not None
    assert attempt.end.outcome == "stopped"
    assert "3 steps in a row were skipped" in attempt.end.reason
    status = run_status(launched.run)
    assert (status.state, status.reason) == ("stopped", attempt.end.reason)
    assert "launch" in str(status.go_on)


def test_a_killed_rank_is_started_again_from_the_last_checkpoint_in_the_same_job(
    recipe: Callable[..., Recipe],
) -> None:
    launched = launch_run(recipe("curriculum.0.train_iters=200"), load_profile("local", TWO))
    run, pid = launched.run, int(str(launched.job_id).split(":")[1])
    wait_until("a checkpoint", lambda: run.newest_step() >= 20)
    family = psutil.Process(pid).children(recursive=True)
    ranks = [process for process in family if rank_of(process) == "1"]
    os.kill(ranks[0].pid, signal.SIGKILL)
    assert stay_until_the_end(run, str(launched.job_id)) == DONE
    first, second = read_history(run.attempts).attempts
    assert first.end is not None
    assert second.end is not None
    assert (first.end.outcome, second.end.outcome, second.end.step) == ("failed", "done", 200)
    assert second.start.step >= 20
    # The other rank speaks of a lost connection; the one that was killed is the cause.
    assert first.end.reason.startswith("rank 1 was killed by signal 9")
    assert last_words(run, attempt=1).startswith("rank 1 failed first, in attempt 1, and could not say why")
