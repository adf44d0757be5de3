"""The demo's training under a storm of faults, and whether it ends where the undisturbed one ends.

    python benchmarks/fault_drill.py                        # 15 minutes of faults, then the page
    python benchmarks/fault_drill.py --minutes 2 --page -   # a short one, printed

Prepares the demo's data, trains its recipe undisturbed with two processes, then trains it again while processes are
killed, asked to stop and stopped at random, and files of checkpoints and metrics are damaged; whenever the training
has ended it is started again, as a launcher would. After the storm the run is left to finish. Every step's loss and
gradient norm and every evaluation must be those of the undisturbed run to the bit; the exit code is 1 where not.
Writes docs/benchmarks/fault-drill.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from retrieva_pretrain import demo
from retrieva_pretrain.launch.torchrun import kill_tree, start, torchrun_command
from retrieva_pretrain.outcome import read_outcome
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.report.metrics import read_metrics

REPOSITORY = Path(__file__).resolve().parent.parent
RECIPE = REPOSITORY / "recipes" / "demo.yaml"
PAGE = REPOSITORY / "docs" / "benchmarks" / "fault-drill.md"
PROCESSES = 2
STEP_TIMEOUT = 20
SETTINGS = [f"faults.step_timeout={STEP_TIMEOUT}", "faults.pause_timeout=90", "checkpoint.keep=4"]
# One fault in so many falls into a start, so many seconds into it; the others into the first seconds of its steps.
DURING_START, START_SECONDS, STEP_SECONDS = 0.15, 15.0, 30.0


class Drill:
    """One run under a storm."""

    def __init__(self, overrides: list[str], log: Path, draw: random.Random) -> None:
        self.overrides = [*overrides, "name=stormy"]
        self.run = Path(load_yaml(Recipe, RECIPE, self.overrides).runs_dir) / "stormy"
        self.log = log
        self.draw = draw
        self.survived: Counter[str] = Counter()
        self.starts = 0
        self.seconds = 0.0
        self.process: subprocess.Popen[bytes] | None = None
        self.workers: list[psutil.Process] = []

    def go(self, minutes: float) -> None:
        """Train to the end, under faults for so many minutes."""
        began = time.monotonic()
        try:
            while not self._is_done():
                self._begin()
                while self._is_running():
                    stormy = time.monotonic() - began < 60 * minutes
                    if not stormy:
                        self._ends_within(3600.0)
                        break
                    if not self._ends_before_its_time():
                        self._strike(self.draw.choice(self.FAULTS))
                self._end()
                if self.draw.random() < 0.4 and time.monotonic() - began < 60 * minutes:
                    self._damage()
        finally:
            if self.process is not None:
                self._end()
        self.seconds = time.monotonic() - began

    def _is_done(self) -> bool:
        outcome = read_outcome(self.run)
        return outcome is not None and outcome["reason"] == "done"

    def _begin(self) -> None:
        self.starts += 1
        self.process = start(
            torchrun_command(RECIPE, self.overrides, processes=PROCESSES), output=self.log, gpus=False
        )

    def _is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def _ends_before_its_time(self) -> bool:
        """Wait for the moment of the next fault; returns whether the training has ended before."""
        if self.draw.random() < DURING_START:
            return self._ends_within(self.draw.uniform(0.0, START_SECONDS))
        written = self._metrics_size()
        while self._metrics_size() == written:  # it takes no steps yet
            if self._ends_within(0.2):
                return True
        return self._ends_within(self.draw.uniform(0.0, STEP_SECONDS))

    def _metrics_size(self) -> int:
        path = self.run / "metrics.jsonl"
        return path.stat().st_size if path.exists() else 0

    def _ends_within(self, seconds: float) -> bool:
        assert self.process is not None
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _end(self) -> None:
        """Wait for what is ending by itself, then remove what a scheduler would remove with the job."""
        assert self.process is not None
        if not self._ends_within(STEP_TIMEOUT + 60):
            raise SystemExit(f"a training neither went on nor ended; see {self.log}")
        kill_tree(self.process)
        for worker in self.workers:
            try:
                worker.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(self.workers, timeout=30)
        self.process, self.workers = None, []

    def _strike(self, fault: tuple[str, Callable[[Drill], bool]]) -> None:
        name, strike = fault
        assert self.process is not None
        try:
            self.workers = [w for w in psutil.Process(self.process.pid).children() if _rank(w) is not None]
            if strike(self):
                self.survived[name] += 1
                print(f"{time.strftime('%H:%M:%S')} {name}", flush=True)
        except psutil.NoSuchProcess:
            return  # it ended by itself a moment ago

    def _one(self) -> psutil.Process | None:
        return self.draw.choice(self.workers) if self.workers else None

    def _signal(self, number: signal.Signals) -> bool:
        worker = self._one()
        if worker is not None:
            worker.send_signal(number)
        return worker is not None

    def _kill_all(self) -> bool:
        assert self.process is not None
        kill_tree(self.process)
        return True

    def _kill_torchrun(self) -> bool:
        """Its workers go on for a moment without it, until the job is cleared away."""
        assert self.process is not None
        self.process.kill()
        time.sleep(self.draw.uniform(0.0, 3.0))
        return True

    def _ask_torchrun(self) -> bool:
        assert self.process is not None
        self.process.terminate()
        return True

    def _pause(self, seconds: float) -> bool:
        worker = self._one()
        if worker is None:
            return False
        worker.suspend()
        time.sleep(seconds)
        worker.resume()
        return True

    FAULTS: tuple[tuple[str, Callable[[Drill], bool]], ...] = (
        ("SIGKILL to one worker", lambda d: d._signal(signal.SIGKILL)),
        ("SIGKILL to all processes at once", lambda d: d._kill_all()),
        ("SIGKILL to torchrun", lambda d: d._kill_torchrun()),
        ("SIGTERM to torchrun", lambda d: d._ask_torchrun()),
        ("SIGTERM to one worker", lambda d: d._signal(signal.SIGTERM)),
        ("SIGUSR1 to one worker", lambda d: d._signal(signal.SIGUSR1)),
        ("SIGSTOP of one worker for some seconds", lambda d: d._pause(d.draw.uniform(0.5, 8.0))),
        ("SIGSTOP of one worker beyond the watchdog", lambda d: d._pause(STEP_TIMEOUT + 5.0)),
    )

    def _damage(self) -> None:
        """Damage a file of the newest checkpoint, or the end of the metrics, while nothing runs."""
        kind = self.draw.choice(["cut", "flipped", "removed", "torn"])
        checkpoints = sorted(p for p in (self.run / "checkpoints").glob("step_*") if p.is_dir())
        if kind == "torn":
            path = self.run / "metrics.jsonl"
            if path.exists() and path.stat().st_size > 100:
                os.truncate(path, path.stat().st_size - self.draw.randint(1, 60))
                self._note("the end of metrics.jsonl torn off")
            return
        # One whole one must be left: without any the run refuses to begin anew on its own.
        if len(checkpoints) < 3:
            return
        path = self.draw.choice(sorted(p for p in checkpoints[-1].rglob("*") if p.is_file()))
        size = path.stat().st_size
        if kind == "cut":
            os.truncate(path, size // 2)
            self._note("a file of the newest checkpoint cut short")
        elif kind == "removed":
            path.unlink()
            self._note("a file of the newest checkpoint removed")
        else:
            with path.open("r+b") as file:
                place = self.draw.randrange(size)
                file.seek(place)
                byte = file.read(1)[0]
                file.seek(place)
                file.write(bytes([byte ^ (1 << self.draw.randrange(8))]))
            self._note("a bit of the newest checkpoint flipped")

    def _note(self, name: str) -> None:
        self.survived[name] += 1
        print(f"{time.strftime('%H:%M:%S')} {name}", flush=True)


def _rank(process: psutil.Process) -> str | None:
    try:
        return process.environ().get("RANK")
    except psutil.Error:
        return None


def figures(run: Path) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """What must be equal: every step and every evaluation of a run."""
    found: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    for record in read_metrics(run / "metrics.jsonl"):
        if record["kind"] == "train":
            found["step", record["step"]] = (record["loss"], record["grad_norm"], record["masked_accuracy"])
        elif record["kind"] == "evaluation":
            key = ("evaluation", record["step"], record["corpus"], record["seq_length"])
            found[key] = (record["loss"], record["masked_accuracy"])
    return found


def main() -> int:
    """Run the drill and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--page", default=str(PAGE), help="where the page is written; - prints it")
    parser.add_argument("overrides", nargs="*", help="key=value: changes to the demo's recipe")
    options = parser.parse_args()
    print(f"seed {options.seed}")
    with tempfile.TemporaryDirectory(prefix="fault-drill-") as folder:
        os.chdir(folder)
        overrides = [*SETTINGS, *options.overrides]
        recipe = load_yaml(Recipe, RECIPE, overrides)
        demo.prepare_data(Console(), recipe)
        calm = Path(recipe.runs_dir) / "calm"
        began = time.monotonic()
        process = start(
            torchrun_command(RECIPE, [*overrides, "name=calm"], processes=PROCESSES),
            output=Path("calm.log"),
            gpus=False,
        )
        if process.wait() != 0:
            sys.exit(f"the undisturbed run failed:\n{Path('calm.log').read_text()[-3000:]}")
        undisturbed = time.monotonic() - began
        print(f"undisturbed: {undisturbed:.0f} s", flush=True)
        drill = Drill(overrides, Path("stormy.log"), random.Random(options.seed))
        try:
            drill.go(options.minutes)
        except SystemExit:
            print(Path("stormy.log").read_text()[-6000:])
            raise
        expected, found = figures(calm), figures(drill.run)
        text = page(options, drill, expected, found, undisturbed, _redone(drill.run))
    if options.page == "-":
        print(text)
    else:
        Path(options.page).write_text(text, encoding="utf-8")
    last = max(key for key in expected if key[0] == "step")
    differing = [key for key, value in found.items() if expected.get(key) != value]
    if differing or last not in found:
        print(f"NOT equal: {sorted(differing, key=str)[:10]}, the last step is there: {last in found}")
        return 1
    return 0


def _redone(run: Path) -> int:
    """Count the steps that were taken more than once."""
    steps: Counter[int] = Counter()
    for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if record["kind"] == "train":
            steps[record["step"]] += 1
    return sum(count - 1 for count in steps.values())


def page(
    options: argparse.Namespace,
    drill: Drill,
    expected: dict[tuple[Any, ...], tuple[Any, ...]],
    found: dict[tuple[Any, ...], tuple[Any, ...]],
    undisturbed: float,
    redone: int,
) -> str:
    """Return the page of a drill."""
    steps = [key for key in expected if key[0] == "step"]
    last = max(steps)
    equal = sum(found.get(key) == expected[key] for key in steps)
    others = [key for key in expected if key[0] != "step"]
    rows = "\n".join(f"| {name} | {count} |" for name, count in sorted(drill.survived.items()))
    loss = found.get(last, (float("nan"),))[0]
    return f"""# A training under faults

`benchmarks/fault_drill.py --minutes {options.minutes:g} --seed {options.seed}`, {date.today().isoformat()}, {os.cpu_count()} CPU cores
({platform.machine()}), no GPU, Python {platform.python_version()}, torch {version("torch")}, megatron-core {version("megatron-core")}: the recipe of
`make demo` ({len(steps):,} steps through four lengths, bf16, dropout on, two processes under torchrun) with
`checkpoint.save_interval: {load_yaml(Recipe, RECIPE, drill.overrides).checkpoint.save_interval}` and `faults.step_timeout: {STEP_TIMEOUT}`, disturbed at random moments for {options.minutes:g} minutes and started
again whenever it had ended.

| what was survived | times |
| --- | ---: |
{rows}
| **all** | **{sum(drill.survived.values())}** |

| | |
| --- | --- |
| Final loss, undisturbed | `{expected[last][0]!r}` |
| Final loss, under faults | `{loss!r}` |
| Steps with the same loss, gradient norm and accuracy, to the bit | {equal:,} of {len(steps):,}; {sum(key not in found for key in steps)} were torn out of the metrics |
| Evaluations of held-out text that are the same, to the bit | {sum(found.get(key) == expected[key] for key in others)} of {len(others)} |
| Starts | {drill.starts} |
| Steps taken again | {redone:,} |
| Time | {drill.seconds / 60:.1f} minutes; undisturbed {undisturbed / 60:.1f} |

What a fault costs is the time of a start and the steps since the last checkpoint. Signals that ask to stop cost no step:
the run saves first.
"""


if __name__ == "__main__":
    sys.exit(main())
