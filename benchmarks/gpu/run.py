"""Measure one GPU: everything this project wants to know of it, in under nine minutes.

    python benchmarks/gpu/run.py [--rehearse] [--out DIR] [--limit 530] [--only PART ...]

Starts the parts in their order, the most valuable first, each in a process of its own with a limit of its own, and ends
by itself before `--limit` seconds. `run.sh` calls it with what a bare machine lacks; README.md says what it writes.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from part import Part, emit, end_group
from summary import write_summary

LIMIT = 530.0
_END_SECONDS = 8.0
_REHEARSAL_FACTOR = 4
_LOG_BYTES = 60_000


@dataclass(frozen=True)
class Entry:
    """A part, as the driver knows it."""

    name: str
    most: float
    """Seconds it may take."""

    least: float
    """Seconds without which it is not begun."""


PARTS = (
    Entry("machine", 60, 20),
    Entry("lengths", 170, 60),
    Entry("attention", 60, 25),
    Entry("losses", 70, 35),
    Entry("demo", 60, 25),
    Entry("fusions", 110, 50),
    Entry("resume", 90, 45),
    Entry("save", 90, 50),
    Entry("compile", 90, 50),
    Entry("waits", 45, 25),
    Entry("stages", 120, 60),
    Entry("reference", 60, 40),
)


def drive(arguments: argparse.Namespace) -> int:
    """Run the parts; returns how many have failed."""
    out = Path(arguments.out).absolute()
    out.mkdir(parents=True, exist_ok=True)
    for name in ("results.jsonl", "profile.txt", "log.txt", "summary.txt", "measured.json"):
        (out / name).unlink(missing_ok=True)
    work = Path(tempfile.mkdtemp(prefix="retrieva-gpu-"))
    started, failed = time.monotonic(), 0
    try:
        for entry in PARTS:
            if arguments.only and entry.name not in arguments.only:
                continue
            left = arguments.limit - (time.monotonic() - started) - _END_SECONDS
            if left < min(entry.least, entry.most):
                emit(out, part=entry.name, kind="skipped", seconds_left=round(left))
                continue
            most = entry.most * (_REHEARSAL_FACTOR if arguments.rehearse else 1)
            failed += (
                _run_part(entry.name, min(most, left), out, work / entry.name, rehearse=arguments.rehearse)
                != 0
            )
    finally:
        shutil.rmtree(work, ignore_errors=True)
        write_summary(out)
    return failed


def _run_part(name: str, seconds: float, out: Path, work: Path, *, rehearse: bool) -> int | str:
    work.mkdir(parents=True)
    command = [sys.executable, __file__, "--part", name, "--out", str(out), "--work", str(work)]
    command += [f"--deadline={time.time() + seconds}", *(["--rehearse"] if rehearse else [])]
    began, code = time.monotonic(), None
    with (work / "part.log").open("wb") as stream:
        process = subprocess.Popen(
            command,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=_environment(rehearse),
        )
        try:
            code = process.wait(timeout=seconds + 2)
        except subprocess.TimeoutExpired:
            code = "time limit"
        finally:
            end_group(process)
    text = (work / "part.log").read_text(encoding="utf-8", errors="replace")
    with (out / "log.txt").open("a", encoding="utf-8") as log:
        log.write(f"\n===== {name}: {code}\n{text[-_LOG_BYTES:]}")
    took = round(time.monotonic() - began, 1)
    emit(out, part=name, kind="end", code=code, seconds=took, **({} if code == 0 else {"tail": text[-1500:]}))
    return code


def _environment(rehearse: bool) -> dict[str, str]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
    # A machine that reaches nothing: gloo and NCCL stay on the loopback interface.
    environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    environment.setdefault("NCCL_SOCKET_IFNAME", "lo")
    if rehearse:
        environment["CUDA_VISIBLE_DEVICES"] = ""
        environment.setdefault("OMP_NUM_THREADS", "1")
    return environment


def run_part(arguments: argparse.Namespace) -> int:
    """Be the process of one part."""
    from retrieva_pretrain.platform.quiet import quiet_upstream

    quiet_upstream()
    part = Part(
        arguments.part, Path(arguments.out), Path(arguments.work), arguments.rehearse, arguments.deadline
    )
    importlib.import_module(f"parts.{part.name}").run(part)
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of process groups need not be waited for.
    os._exit(0)


def main() -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [entry.name for entry in PARTS]
    default_out = os.environ.get("OUT", "gpu-results")
    parser.add_argument("--out", default=default_out, help="where results go; $OUT, or gpu-results")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds for everything; 530 by default")
    parser.add_argument("--only", nargs="+", choices=names, metavar="PART", help=", ".join(names))
    parser.add_argument(
        "--rehearse", action="store_true", help="every part on the CPU, tiny: shows that it runs"
    )
    for hidden in ("--part", "--work"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--deadline", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        return run_part(arguments)
    return 1 if drive(arguments) else 0


if __name__ == "__main__":
    sys.exit(main())
