"""Real jobs of this machine under torchrun: what their supervisor makes of their ends, and what a user is shown."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from retrieva_pretrain.errors import LaunchError
from retrieva_pretrain.exit_codes import DONE, FAILED, REQUEUE
from retrieva_pretrain.launch.attempts import read_history
from retrieva_pretrain.launch.cancel import cancel_run
from retrieva_pretrain.launch.logs import last_words
from retrieva_pretrain.launch.node import LOGS_VARIABLE
from retrieva_pretrain.launch.profiles import load_profile
from retrieva_pretrain.launch.run_files import RunFiles
from retrieva_pretrain.launch.schedulers.grid_engine import GridEngine
from retrieva_pretrain.launch.schedulers.local import Local
from retrieva_pretrain.launch.snapshot import PROGRAM, snapshot_code
from retrieva_pretrain.launch.status import run_status
from retrieva_pretrain.launch.train import active_jobs, launch_run
from retrieva_pretrain.launch.train_scripts import TrainScripts
from retrieva_pretrain.launch.watch import stay_until_the_end
from retrieva_pretrain.recipe.schema import Recipe
from tests.command import retrieva
from tests.waiting import wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
TWO = ["training.processes_per_node=2", f"environment_variables={{PYTHONPATH: {REPOSITORY}}}"]
MakeRecipe = Callable[..., Recipe]

# Every test starts torchrun once or more.
pytestmark = pytest.mark.usefixtures("stand_in")


def trained(recipe: Recipe, *changes: str) -> tuple[RunFiles, int]:
    """Launch a recipe here with two processes and wait for its end."""
    launched = launch_run(recipe, load_profile("local", [*TWO, *changes]))
    return launched.run, stay_until_the_end(launched.run, str(launched.job_id))


def under_way(recipe: Recipe) -> tuple[RunFiles, psutil.Process]:
    """Launch a recipe here with two processes and wait for its first step; the run, and its job's first process."""
    launched = launch_run(recipe, load_profile("local", TWO))
    wait_until("a step", launched.run.metrics.exists)
    return launched.run, psutil.Process(int(str(launched.job_id).split(":")[1]))


def ends(run: RunFiles) -> list[tuple[str, int, int]]:
    """Outcome, first and last step of every attempt."""
    return [
        (a.end.outcome, a.start.step, a.end.step) if a.end else ("open", a.start.step, -1)
        for a in read_history(run.attempts).attempts
    ]


def test_the_rank_that_failed_first_speaks_first_and_training_starts_again(
    small_recipe: MakeRecipe, capfd: pytest.CaptureFixture[str]
) -> None:
    run, code = trained(small_recipe("torn-once"))
    assert code == DONE
    assert ends(run) == [("failed", 0, 0), ("done", 0, 40)]
    assert "the cause" in read_history(run.attempts).attempts[0].end.reason  # type: ignore[union-attr]
    said = last_words(run, attempt=1)
    assert said.startswith("rank 1 failed first")
    assert said.index("ValueError: the cause") < said.index("Connection closed by peer")
    # The terminal has shown the log of the first rank, through both attempts.
    assert capfd.readouterr().out.count("rank 0 of 2 from step 0") == 2
    status = run_status(run)
    assert (status.state, status.step, status.checkpoint_step, status.failures) == ("done", 40, 40, 1)
    with pytest.raises(LaunchError, match="trained to the end of the recipe, step 40"):
        launch_run(small_recipe("torn-once"), load_profile("local", TWO))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("refused", "small.yaml:3: model.num_layers: cannot be so"),
        pytest.param("memory", "out of memory, rank", marks=pytest.mark.slow),
    ],
)
def test_what_another_try_cannot_mend_is_tried_once(name: str, reason: str, small_recipe: MakeRecipe) -> None:
    run, code = trained(small_recipe(name))
    assert code == FAILED
    assert ends(run) == [("stopped", 0, 0)]
    status = run_status(run)
    assert status.state == "stopped"
    assert reason in status.reason
    assert f"{run.jobs}/001-recipe.yaml --cluster" in str(status.go_on)


@pytest.mark.slow
def test_failures_in_a_row_have_a_cap_and_a_killed_rank_is_named(small_recipe: MakeRecipe) -> None:
    run, code = trained(small_recipe("fails"), "training.max_failures=2")
    assert code == FAILED
    assert [outcome for outcome, _, _ in ends(run)] == ["failed", "stopped"]
    run, code = trained(small_recipe("killed-once"))
    assert code == DONE
    first = read_history(run.attempts).attempts[0].end
    assert first is not None
    assert first.reason.startswith("rank 1 was killed by signal 9")


@pytest.mark.slow
def test_a_cancelled_run_saves_at_the_step_it_is_at_and_goes_on_from_there_when_launched_again(
    small_recipe: MakeRecipe,
) -> None:
    recipe, profile = small_recipe(steps=80), load_profile("local", TWO)
    launched = launch_run(recipe, profile)
    run = launched.run
    wait_until("a step", run.metrics.exists)
    assert run_status(run).state == "running"
    with pytest.raises(LaunchError, match="this run is under way as job"):
        launch_run(recipe, profile)
    assert cancel_run(run) == [launched.job_id]
    wait_until("the end of the job", lambda: not active_jobs(run))
    ((outcome, _, saved),) = ends(run)
    assert outcome == "cancelled"
    assert 0 < saved < 80
    assert run_status(run).state == "cancelled"
    run, code = trained(recipe)
    assert code == DONE
    assert ends(run)[1] == ("done", saved, 80)


@pytest.mark.slow
def test_a_killed_supervisor_takes_its_ranks_along_and_the_next_launch_says_what_happened(
    small_recipe: MakeRecipe,
) -> None:
    run, supervisor = under_way(small_recipe(steps=150))
    wait_until("a checkpoint", lambda: run.newest_step() >= 10)
    supervisor.kill()
    wait_until("the end of the job", lambda: not active_jobs(run))
    assert run_status(run).state == "dead"
    assert "killed from outside" in run_status(run).reason
    wait_until("the ranks' end", lambda: not ranks_at_work(run.attempt_logs(1)))
    run, code = trained(small_recipe(steps=150))
    assert code == DONE
    assert ends(run)[0][0] == "killed"
    assert run_status(run).preemptions == 1


@pytest.mark.slow
def test_a_signal_that_reaches_every_process_of_a_job_lets_its_ranks_save(small_recipe: MakeRecipe) -> None:
    """As srun hands a signal on: to torchrun too, which knows nothing of it."""
    run, supervisor = under_way(small_recipe(steps=200))
    for process in supervisor.children(recursive=True):
        process.send_signal(signal.SIGUSR1)
    wait_until("the end of the job", lambda: not active_jobs(run))
    ((outcome, _, saved),) = ends(run)
    assert (outcome, saved > 0) == ("left", True)


@pytest.mark.slow
def test_ranks_that_outlive_a_killed_torchrun_save_and_leave_before_training_starts_again(
    small_recipe: MakeRecipe,
) -> None:
    run, supervisor = under_way(small_recipe(steps=200))
    for process in supervisor.children(recursive=True):
        if "torch.distributed.run" in process.cmdline():
            process.kill()
    wait_until("the end of the job", lambda: not active_jobs(run))
    found = ends(run)
    saved = found[0][2]
    assert found == [("failed", 0, saved), ("done", saved, 200)]
    assert saved > 0
    assert "torchrun was killed" in read_history(run.attempts).attempts[0].end.reason  # type: ignore[union-attr]


def ranks_at_work(logs: Path) -> list[int]:
    """The processes that were told to write their logs there."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
            if process.environ().get(LOGS_VARIABLE) == str(logs):
                found.append(process.pid)
    return found


@pytest.mark.slow
def test_nodes_of_grid_engine_are_reached_by_the_remote_shell_with_the_jobs_own_script(
    small_recipe: MakeRecipe, tmp_path: Path
) -> None:
    """No qrsh here: a shell that does with its words what ssh does. Without the scheduler, its variables are set."""
    remote = tmp_path / "remote shell"
    remote.write_text('#!/bin/bash\necho "$1" >> "$(dirname "$0")/reached"; shift; exec bash -c "$*"\n')
    remote.chmod(0o755)
    hosts = tmp_path / "hosts"
    hosts.write_text("first 1 q@first UNDEFINED\nsecond 1 q@second UNDEFINED\n")
    changes = [
        f"environment_variables={{PYTHONPATH: {REPOSITORY}}}",
        f"training={{processes_per_node: 1, rendezvous_address: 127.0.0.1, remote_shell: ['{remote}']}}",
    ]
    scripts = TrainScripts(
        small_recipe("torn-once"), load_profile("tsubame4", changes), GridEngine(), 2, 1, number=1
    )
    shutil.copy(Path(__file__).parent / "stand_in.py", _made(scripts.code) / PROGRAM)
    for path, text in scripts.files.items():
        path.write_text(text)
    done = subprocess.run(
        ["bash", scripts.script],
        env={**os.environ, "JOB_ID": "7", "PE_HOSTFILE": str(hosts)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == DONE, done.stdout + done.stderr
    assert [row[0] for row in ends(scripts.run)] == ["failed", "done"]
    assert (tmp_path / "reached").read_text().split() == ["second", "second"]
    assert "rank 1 failed first" in done.stdout


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


@pytest.mark.slow
def test_a_token_comes_into_no_script_and_no_log(
    small_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_nobody-may-read-this")
    run, code = trained(small_recipe("hostile"), "training.max_failures=1")
    assert code == FAILED
    texts = {path: path.read_text(errors="replace") for path in run.run.rglob("*") if path.is_file()}
    assert any("login with [HF_TOKEN] was refused" in text for text in texts.values())
    assert [path for path, text in texts.items() if "nobody-may-read" in text] == []


@pytest.mark.slow
def test_ctrl_c_lets_a_run_save_and_leave(small_recipe: MakeRecipe, tmp_path: Path) -> None:
    launched = launch_run(small_recipe(steps=200), load_profile("local", TWO))
    run = launched.run
    program = (
        "import signal, sys; from pathlib import Path\n"
        # What runs in the background of a shell has been told to ignore it.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from retrieva_pretrain.launch.run_files import RunFiles\n"
        "from retrieva_pretrain.launch.watch import stay_until_the_end\n"
        "print('ready', flush=True)\n"
        "sys.exit(stay_until_the_end(RunFiles(Path(sys.argv[1])), sys.argv[2]))\n"
    )
    command = [sys.executable, "-c", program, str(run.run), str(launched.job_id)]
    shown = tmp_path / "shown.txt"
    with shown.open("w") as output:
        watching = subprocess.Popen(command, stdout=output)
    wait_until("a step", run.metrics.exists)
    # Before it has loaded, an interrupt is any program's.
    wait_until("what is watched", lambda: "ready" in shown.read_text())
    watching.send_signal(signal.SIGINT)
    assert watching.wait(60) == REQUEUE
    assert ends(run)[0][0] == "left"
    assert not Local().states([str(launched.job_id)])


def test_the_code_of_a_run_is_the_code_at_its_submission(tmp_path: Path) -> None:
    program = snapshot_code(tmp_path / "001-code")
    # A checkout in the working directory, edited since.
    edited = tmp_path / "checkout" / "retrieva_pretrain"
    edited.mkdir(parents=True)
    (edited / "__init__.py").write_text("raise RuntimeError('edited since')")
    done = subprocess.run(
        [sys.executable, str(program), "--version"],
        cwd=tmp_path / "checkout",
        env={**os.environ, "PYTHONPATH": str(tmp_path / "checkout")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("retrieva "), done.stderr
    assert (tmp_path / "001-code" / "data_prep").is_dir()


def test_status_logs_and_cancel_answer_as_commands(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "mine"
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text(
        '{"kind": "train", "step": 7, "stage": 0, "seq_length": 16, "loss": 2.5, "tokens_per_second": 100.0}\n{"to'
    )

    def run_here(*words: str) -> subprocess.CompletedProcess[str]:
        return retrieva(*words, code=None, cwd=tmp_path)

    shown = json.loads(run_here("status", "mine", "--json").stdout)
    assert (shown["step"], shown["loss"], shown["state"]) == (7, 2.5, "unknown")
    assert "loss        2.5000" in run_here("status", "runs/mine").stdout
    assert "no job of this run waits or runs" in run_here("cancel", "mine").stdout
    missing = run_here("logs", "nothing")
    assert missing.returncode == 1
    assert "known" not in missing.stderr
    assert "the name of a run in runs: mine" in missing.stderr
