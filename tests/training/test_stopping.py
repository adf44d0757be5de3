"""A run that is asked to stop finishes its step, saves, says so, and goes on as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from retrieva_pretrain.durations import parse_duration
from retrieva_pretrain.errors import RetrievaError
from retrieva_pretrain.exit_codes import REQUEUE
from tests.waiting import PATIENCE

if TYPE_CHECKING:
    from tests.training.conftest import World

# Long enough for a signal to come before the end on a busy machine.
SHORT = [f"curriculum.{stage}.train_iters=15" for stage in range(4)]
# Saves of its own would hide that the request is what saved.
RARELY = ["checkpoint.save_interval=1000"]


def workers_of(torchrun: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return [child for child in psutil.Process(torchrun.pid).children() if "train" in child.cmdline()]


def outcome(world: World, name: str) -> dict[str, Any]:
    return json.loads((world.folder / "runs" / name / "exit.json").read_text())


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "whom"),
    [(signal.SIGTERM, "torchrun"), (signal.SIGUSR1, "one worker")],
)
def test_a_signal_to_any_process_stops_all_after_the_same_step_and_nothing_is_lost(
    world: World, number: signal.Signals, whom: str
) -> None:
    undisturbed = {r["step"]: r for r in world.train("name=undisturbed", *SHORT) if r["kind"] == "train"}
    process = world.start("name=asked", *SHORT, *RARELY, log="asked.log")
    first = random.randint(1, 9)
    world.wait_until("a step", lambda: world.has_taken(first, "asked"), process, "asked.log")
    target = process.pid if whom == "torchrun" else random.choice(workers_of(process)).pid
    os.kill(target, number)
    assert process.wait(timeout=PATIENCE) != 0
    log = (world.folder / "asked.log").read_text()
    ended = outcome(world, "asked")
    assert (ended["reason"], ended["code"]) == ("stopped", REQUEUE), log
    saved = [r for r in world.metrics("asked") if r["kind"] == "checkpoint"]
    assert saved[-1]["step"] == ended["step"] < len(undisturbed)
    assert f"stopped after step {ended['step']}: {number.name}" in log
    records = world.train("name=asked", *SHORT, *RARELY)
    assert [r["step"] for r in records if r["kind"] == "start"] == [0, ended["step"]]
    for record in (r for r in records if r["kind"] == "train"):
        for figure in ("loss", "grad_norm", "masked_accuracy"):
            assert record[figure] == undisturbed[record["step"]][figure]
    assert outcome(world, "asked")["reason"] == "done"


@pytest.mark.engine
def test_a_run_leaves_before_its_time_limit_with_the_code_for_starting_again(world: World) -> None:
    command = [sys.executable, "-m", "retrieva_pretrain", "train", str(world.recipe), *RARELY]
    longer = [f"curriculum.{stage}.train_iters=4000" for stage in range(4)]
    # Where a start alone takes as long, the run leaves before its first step, as it should.
    for limit in ("25s", "50s", "100s", "200s"):
        done = subprocess.run(
            [*command, *longer, "--exit-before", limit],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        assert done.returncode == REQUEUE, done.stderr
        ended = outcome(world, "small")
        if ended["step"] > 0:
            break
    assert 0 < ended["step"] < 16_000
    assert (world.folder / "runs" / "small" / "checkpoints" / f"step_{ended['step']:07d}").is_dir()
    assert "the time limit" in done.stdout


@pytest.mark.engine
@pytest.mark.slow
def test_a_second_signal_does_not_break_the_save_that_the_first_one_asked_for(world: World) -> None:
    process = world.start("name=asked", *SHORT, *RARELY, processes=1, log="asked.log")
    world.wait_until("a step", lambda: world.has_taken(3, "asked"), process, "asked.log")
    worker = workers_of(process)[0]
    with suppress(psutil.NoSuchProcess):  # torchrun may clear it away between a look and a signal
        while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE:
            worker.send_signal(random.choice([signal.SIGTERM, signal.SIGUSR1]))
            time.sleep(0.005)
    process.wait(timeout=PATIENCE)
    ended = outcome(world, "asked")
    assert ended["reason"] == "stopped"
    assert [r["step"] for r in world.train("name=asked", *SHORT, processes=1) if r["kind"] == "start"][
        1
    ] == ended["step"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("23:50:00", 85_800), ("1-00:00:01", 86_401), ("90m", 5400), ("1d2h3m4s", 93_784), ("0:00:45", 45)],
)
def test_time_limits_are_read_as_schedulers_and_people_write_them(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "90", "1:90:00", "soon", "-5m", "0:00:00", "5m3h", "１時間"])
def test_a_time_limit_that_can_be_misread_is_refused(text: str) -> None:
    with pytest.raises(RetrievaError, match=re.escape(repr(text))):
        parse_duration(text)


VOTES = """
import os, signal, sys
from pathlib import Path
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.training.distributed import initialize, shut_down
from retrieva_pretrain.training.stopping import StopRequests

ranks = initialize(load_yaml(Recipe, Path("recipes/demo.yaml"), []))
requests = StopRequests()
assert requests.decide() is None
if ranks.rank == 1:
    os.kill(os.getpid(), signal.SIGUSR1)
assert requests.decide() == "SIGUSR1", requests.votes()
shut_down()
"""


@pytest.mark.engine
def test_all_processes_learn_of_a_request_to_one(run_python: Callable[..., str]) -> None:
    run_python(VOTES, processes=2)


BEFORE_THE_LIMIT = """
import time
import psutil
from retrieva_pretrain.training.stopping import StopRequests

began = psutil.Process().create_time()
requests = StopRequests(time.time() - began + 1000)
requests.note(300.0, 5.0, is_first=True)
assert requests.votes()[2] == 0.0  # 1.5 x (2 x 300 + 2 x 5): nothing else is known
requests.note(1.0, 5.0, is_first=False)
requests.note(400.0, 5.0, is_first=True)
requests.note_evaluation(400.0)
requests.expect(stage_begins=False, evaluation_comes=True)
assert requests.votes()[2] == 0.0
requests.expect(stage_begins=True, evaluation_comes=False)
assert requests.votes()[2] == 0.0
requests.expect(stage_begins=True, evaluation_comes=True)
assert requests.votes()[2] == 1.0

requests = StopRequests(time.time() - began + 1000)
requests.note(1.0, 5.0, is_first=False)
requests.note(900.0, 5.0, is_first=True)
requests.note_evaluation(900.0)
assert requests.votes()[2] == 0.0
requests.note(900.0, 5.0, is_first=False)
assert requests.votes()[2] == 1.0
"""


def test_what_is_held_back_of_a_time_limit_is_what_may_still_come(run_python: Callable[..., str]) -> None:
    run_python(BEFORE_THE_LIMIT)


EXPECTED = """
import json, sys
from pathlib import Path
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.training.interval import TimeLeft
from retrieva_pretrain.training.prepare import prepare
from retrieva_pretrain.training.run import train
from retrieva_pretrain.training.stopping import StopRequests

told = []
expect, note = StopRequests.expect, StopRequests.note
def expected(requests, **what):
    told.append(what)
    expect(requests, **what)
def noted(requests, *seconds, is_first):
    told[-1]["is_first"] = is_first
    note(requests, *seconds, is_first=is_first)
def in_the_time_left(left, *figures, is_first):
    told[-1]["is_first_in_time_left"] = is_first
    take_in(left, *figures, is_first=is_first)
StopRequests.expect, StopRequests.note = expected, noted
take_in, TimeLeft.note = TimeLeft.note, in_the_time_left
train(prepare(load_yaml(Recipe, Path(sys.argv[1]), sys.argv[2:])))
print("told", json.dumps(told))
"""


@pytest.mark.engine
def test_a_run_knows_when_a_step_that_compiles_or_an_evaluation_comes(
    world: World, run_python: Callable[..., str]
) -> None:
    lengths = [f"curriculum.{stage}.train_iters={steps}" for stage, steps in enumerate((4, 3, 1, 2))]
    shown = run_python(
        EXPECTED, arguments=[str(world.recipe), *lengths, *RARELY, "evaluation.eval_interval=2"]
    )
    told = json.loads(next(line for line in shown.splitlines() if line.startswith("told"))[5:])
    evaluated = {r["step"] for r in world.metrics() if r["kind"] == "evaluation"}
    assert [said["is_first"] for said in told] == [step in (0, 4, 7, 8) for step in range(10)]
    assert all(said["is_first_in_time_left"] == said["is_first"] for said in told)
    assert [said["stage_begins"] for said in told] == [step + 1 in (4, 7, 8, 10) for step in range(10)]
    assert [said["evaluation_comes"] for said in told] == [step + 1 in evaluated for step in range(10)]


# Real trainings; one of their steps, or one of their saves, is made to go as the test wants it.
IN_THE_LAST_STEP = """
import os, signal, sys
from pathlib import Path
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.training.prepare import prepare
from retrieva_pretrain.training.run import train
from retrieva_pretrain.training.step import Stepper

take = Stepper.train_step
def asked(stepper, step):
    if step == stepper.curriculum.total_steps - 1:
        os.kill(os.getpid(), signal.SIGTERM)
    return take(stepper, step)
Stepper.train_step = asked
print("code", train(prepare(load_yaml(Recipe, Path(sys.argv[1]), sys.argv[2:]))))
"""


@pytest.mark.engine
def test_a_request_in_the_last_step_does_not_take_the_last_checkpoint_away(
    world: World, run_python: Callable[..., str]
) -> None:
    settings = [*(f"curriculum.{stage}.train_iters=1" for stage in range(4)), *RARELY]
    shown = run_python(IN_THE_LAST_STEP, arguments=[str(world.recipe), *settings])
    assert "code 0" in shown
    assert outcome(world, "small")["reason"] == "done"
    records = world.metrics()
    assert [r["step"] for r in records if r["kind"] == "checkpoint"] == [1, 2, 3, 4]
    assert {r["step"] for r in records if r["kind"] == "evaluation"} >= {0, 4}


AFTER_A_FAILED_SAVE = """
import os, signal, sys
from pathlib import Path
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.training.prepare import prepare
from retrieva_pretrain.training.run import train
from retrieva_pretrain.training.shards import ShardWriter
from retrieva_pretrain.training.step import Stepper

write, take = ShardWriter.write, Stepper.train_step
saves = []
def full_once(writer):
    saves.append(writer)
    if len(saves) == 1:
        raise OSError(28, "No space left on device")
    return write(writer)
def asked(stepper, step):
    if step == 5:
        os.kill(os.getpid(), signal.SIGUSR1)
    return take(stepper, step)
ShardWriter.write, Stepper.train_step = full_once, asked
print("code", train(prepare(load_yaml(Recipe, Path(sys.argv[1]), sys.argv[2:]))))
"""


@pytest.mark.engine
@pytest.mark.slow
def test_a_request_after_a_save_that_failed_saves_what_is_there_and_an_evaluation_is_made_up_for(
    world: World, run_python: Callable[..., str]
) -> None:
    # The stage ends, and is evaluated, with the step in which the request comes.
    settings = ["checkpoint.save_interval=1000", "curriculum.0.train_iters=3", "curriculum.1.train_iters=3"]
    settings += ["curriculum.2.train_iters=3", "curriculum.3.train_iters=1"]
    shown = run_python(AFTER_A_FAILED_SAVE, arguments=[str(world.recipe), *settings])
    assert f"code {REQUEUE}" in shown and "could NOT be saved" in shown
    assert outcome(world, "small")["step"] == 6
    records = world.metrics()
    assert [r["step"] for r in records if r["kind"] == "checkpoint"] == [6]
    assert 6 not in {r["step"] for r in records if r["kind"] == "evaluation"}
    went_on = world.train(*settings, processes=1)
    assert [r["step"] for r in went_on if r["kind"] == "start"] == [0, 6]
    assert {r["step"] for r in went_on if r["kind"] == "evaluation"} >= {0, 3, 6, 9, 10}
