"""The demo's training steps by this tree against an earlier commit: is the CPU slower than before?

    python benchmarks/demo_speed.py COMMIT [--rounds 6]

Checks COMMIT out beside this tree, builds the demo's corpora once, and trains the demo's four stages in a short form with
the code of each in turn, one process on one thread, so that both meet the same noise. A step's time is the
wall time that the run's own records give; the first steps of each stage are left out. Writes
docs/benchmarks/demo-speed.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from datetime import date
from importlib.metadata import version
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = REPOSITORY / "docs" / "benchmarks" / "demo-speed.md"
STEPS = (24, 16, 12, 8)
WARM = 3
CURRICULUM = ", ".join(
    f"{{seq_length: {length}, train_iters: {steps}, max_micro_batch_size: {size}}}"
    for length, steps, size in zip((16, 32, 64, 128), STEPS, (64, 32, 16, 8), strict=True)
)
PREPARE = str(REPOSITORY / "benchmarks" / "gpu" / "demo_data.py")
Times = dict[int, list[float]]
"""Seconds of each step, by sequence length."""


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("commit")
    parser.add_argument("--rounds", type=int, default=6)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="demo-speed-") as name:
        work = Path(name)
        before = work / "before"
        git("worktree", "add", "--detach", str(before), arguments.commit)
        try:
            python(REPOSITORY, work, PREPARE, str(work))
            rounds = []
            for number in range(arguments.rounds):
                # Who goes first changes, so that neither always meets the warmer machine.
                order = [("before", before), ("now", REPOSITORY)][:: 1 if number % 2 else -1]
                rounds.append({who: trained(tree, work, f"{who}-{number}") for who, tree in order})
        finally:
            git("worktree", "remove", "--force", str(before))
    page = render(rounds, git("rev-parse", "--short", arguments.commit), arguments.rounds)
    PAGE.write_text(page, encoding="utf-8")
    print(page)


def trained(tree: Path, work: Path, name: str) -> Times:
    """Train with a tree's code and return the seconds of its steps."""
    python(
        tree,
        work,
        *("-m", "retrieva_pretrain", "train", str(tree / "recipes" / "demo.yaml"), f"name={name}"),
        *(f"curriculum=[{CURRICULUM}]", "logging.tensorboard=false"),
        *("evaluation={eval_interval: 10000, samples_per_corpus: 1}", "checkpoint.save_interval=10000"),
    )
    lines = (work / "demo" / "runs" / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    found: Times = defaultdict(list)
    for record in map(json.loads, lines):
        if record["kind"] == "train":
            found[record["seq_length"]].append(record["step_seconds"])
    return {length: seconds[WARM:] for length, seconds in found.items()}


def python(tree: Path, work: Path, *words: str) -> None:
    """Run Python on a tree's code in the work folder."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *words], cwd=work, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stdout[-2000:] + done.stderr[-4000:])


def git(*words: str) -> str:
    """Run git here and return what it prints."""
    done = subprocess.run(["git", *words], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def render(rounds: list[dict[str, Times]], commit: str, count: int) -> str:
    """Return the page."""
    rows, ratios = [], []
    for length in rounds[0]["now"]:
        before, now = ([statistics.median(r[who][length]) for r in rounds] for who in ("before", "now"))
        of_length = [n / b for n, b in zip(now, before, strict=True)]
        ratios.append(statistics.median(of_length))
        rows.append(
            f"| {length} | {statistics.median(before) * 1e3:.1f} | {statistics.median(now) * 1e3:.1f} |"
            f" {ratios[-1]:.3f} | {min(of_length):.3f} to {max(of_length):.3f} |"
        )
    versions = ", ".join(f"{n} {version(n)}" for n in ("torch", "megatron-core"))
    table = "\n".join(rows)
    return f"""# The demo's steps against an earlier commit

- Script: `python benchmarks/demo_speed.py {commit} --rounds {count}`; its first lines say what is measured.
- Date: {date.today()}; {os.cpu_count()} CPU cores, no GPU; load average {os.getloadavg()[0]:.1f} at the end. Python
  {platform.python_version()}, {versions}.

One process on one thread, default kernels of the CPU, {count} rounds, the two commits in turn. Medians of the rounds' medians; a
ratio below 1 means that steps are faster now.

| length | before ({commit}), ms per step | now, ms per step | ratio, median | ratios of the rounds |
| ---: | ---: | ---: | ---: | --- |
{table}
"""


if __name__ == "__main__":
    main()
