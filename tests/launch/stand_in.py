"""Training in small, without torch: the same files, signals and exit codes, in a second instead of half a minute.

The launcher's tests put this in the place of a snapshot's program. `job`, `node` and `train` go through the real
code; only what `retrieva train` does is this file's. The recipe's name says what goes wrong:
`fails` (always), `fails-once`, `refused`, `memory`, `killed-once` (SIGKILL), `torn-once` (the second rank fails, the
others wait for it), `hostile` (an error that holds a secret); any other trains to its end.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import yaml

import retrieva_pretrain.cli as cli
from retrieva_pretrain.cli import rank as rank_program
from retrieva_pretrain.durations import parse_duration
from retrieva_pretrain.errors import RecipeError, RetrievaError
from retrieva_pretrain.exit_codes import FAILED, REQUEUE
from retrieva_pretrain.launch.node import LOGS_VARIABLE
from retrieva_pretrain.outcome import forget_outcome, write_outcome

SECONDS_PER_STEP = 0.1
told: list[int] = []


def train(recipe_file: str, leave_after: float | None) -> None:
    recipe = yaml.safe_load(Path(recipe_file).read_text())
    run = _run_of(recipe_file)
    first = os.environ["RANK"] == "0"
    (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    if first:
        forget_outcome(run)
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, frame: told.append(number))
    started, total = time.monotonic(), sum(stage["train_iters"] for stage in recipe["curriculum"])
    step = max((int(p.name[5:]) for p in (run / "checkpoints").glob("step_*")), default=0)
    print(
        f"rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']} from step {step}, code {Path(__file__).name}"
    )
    while step < total:
        time.sleep(SECONDS_PER_STEP)
        step += 1
        _go_wrong(run, recipe["name"], step, first=first)
        if first:
            _write(run, step, total)
        if first and (step % 10 == 0 or step == total):
            _save(run, step)
        if told or (leave_after is not None and time.monotonic() - started > leave_after):
            if first:
                _save(run, step)
                write_outcome(run, "stopped", step=step, message=f"stopped after step {step}")
            sys.exit(REQUEUE)
    if first:
        write_outcome(run, "done", step=step, message="the run is complete")
    time.sleep(0.3)


def _run_of(recipe_file: str) -> Path:
    recipe = yaml.safe_load(Path(recipe_file).read_text())
    return Path(recipe["runs_dir"]) / recipe["name"]


def _go_wrong(run: Path, name: str, step: int, *, first: bool) -> None:
    if step < 5:
        return
    if name == "refused":
        raise RecipeError("small.yaml:3: model.num_layers: cannot be so")
    if name == "memory":
        raise MemoryError("CUDA out of memory. Tried to allocate 6.50 GiB")
    if name == "fails":
        raise ValueError("a fault that comes every time")
    if name == "hostile":
        raise ValueError(f"login with {os.environ['HF_TOKEN']} was refused")
    if not os.environ[LOGS_VARIABLE].endswith("0001"):
        return
    if name == "fails-once":
        raise ValueError("a fault that passes")
    # The ranks may start seconds apart. The second goes wrong when the first is at work, which forgets what was said
    # before; and the first, as if it waited in a collective operation, gets nowhere before the second has.
    if name in ("torn-once", "killed-once") and not first:
        _wait_for((run / "metrics.jsonl").exists)
    if name == "torn-once":
        if not first:
            raise ValueError("the cause")
        _wait_for((run / "exit.json").exists)
        time.sleep(1)
        raise RuntimeError("Connection closed by peer: a consequence")
    if name == "killed-once":
        if not first:
            os.kill(os.getpid(), signal.SIGKILL)
        _wait_for(lambda: bool(told))


def _wait_for(is_so: Callable[[], bool]) -> None:
    while not is_so():
        time.sleep(0.05)


def _write(run: Path, step: int, total: int) -> None:
    line = {"kind": "train", "step": step, "stage": 0, "seq_length": 16, "loss": 5 - step / total}
    line |= {"tokens_per_second": 1000.0, "step_seconds": SECONDS_PER_STEP, "consumed_tokens": step * 128}
    line["seconds_left"] = (total - step) * SECONDS_PER_STEP
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write(json.dumps(line) + "\n")


def _save(run: Path, step: int) -> None:
    new = run / "checkpoints" / f".step_{step:07d}"
    new.mkdir(exist_ok=True)
    (new / "checkpoint.json").write_text("{}")
    if not (final := run / "checkpoints" / f"step_{step:07d}").exists():
        new.rename(final)


def _command_line() -> None:
    if sys.argv[1] != "train":
        cli.main()
        return
    left = sys.argv[sys.argv.index("--exit-before") + 1] if "--exit-before" in sys.argv else None
    try:
        train(sys.argv[2], parse_duration(left) if left else None)
    except RetrievaError as error:
        write_outcome(_run_of(sys.argv[2]), "failed", step=None, message=str(error))
        print(f"retrieva: {error}", file=sys.stderr)
        sys.exit(FAILED)
    except Exception as error:
        write_outcome(_run_of(sys.argv[2]), "failed", step=None, message=f"{type(error).__name__}: {error}")
        raise


if __name__ == "__main__":
    rank_program.command_line = _command_line  # what a rank runs, and what `job` and `node` are
    rank_program.main()
