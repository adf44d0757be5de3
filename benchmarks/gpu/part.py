"""What the parts of the kit share: where results go, how much time is left, the recipes, and the processes they start.

Each part runs in a process of its own. What it finds is appended to `results.jsonl` at once, so that a part that fails,
hangs or runs out of time loses nothing of what was measured before.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retrieva_pretrain.launch.torchrun import kill_tree

ROOT = Path(__file__).resolve().parents[2]
KIT = ROOT if (ROOT / "demo" / "data").is_dir() and (ROOT / "wheels").is_dir() else ROOT / ".gpu-kit"
"""What `prepare.sh` has packed: demo/data and wheels."""

VOCAB_SIZE = 99_574
"""Pieces of the tokenizer of RetrievaBERT, whose file is not part of the kit: 99,584 rows."""

SIZES = {128: (64, 128, 32), 256: (32, 64, 16), 512: (16, 32, 8), 2048: (4, 8, 2)}
"""Length -> samples of a micro-batch, the most wanted first: 8,192, 16,384 and 4,096 tokens."""

TINY = (
    "model.num_layers=2",
    "model.hidden_size=64",
    "model.ffn_hidden_size=96",
    "model.num_attention_heads=4",
    "model.max_position_embeddings=64",
    "curriculum=[{seq_length: 16, train_iters: 20, max_micro_batch_size: 4},"
    " {seq_length: 32, train_iters: 20, max_micro_batch_size: 2}]",
)
"""The 1.3 B recipe in a rehearsal."""


def emit(out: Path, **fields: Any) -> None:
    """Append one result and bring it to the disk."""
    line = json.dumps(fields, default=str)
    with (out / "results.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(line + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    print(line[:400], flush=True)


def read_results(out: Path) -> list[dict[str, Any]]:
    """Return the results written so far."""
    file = out / "results.jsonl"
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.endswith("}")]


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that leads its own session, all it has started, and what is left of its session.

    torchrun's workers and a preflight's job are in sessions of their own: while their parent lives they are found.
    """
    if process.poll() is None:
        kill_tree(process)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_for(process: subprocess.Popen[bytes], seconds: float) -> int | str:
    """Return a process's exit code; after so many seconds it is killed."""
    try:
        return process.wait(timeout=max(seconds, 1.0))
    except subprocess.TimeoutExpired:
        end_group(process)
        return "time limit"


@dataclass
class Part:
    """One part, in its own process."""

    name: str
    out: Path
    """Where results go."""

    work: Path
    """A folder for what is not kept."""

    rehearse: bool
    """Whether this is the CPU with tiny sizes."""

    deadline: float
    """In seconds since 1970."""

    _joined: list[Any] = field(default_factory=list)

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.time()

    @property
    def device(self) -> str:
        """`cuda`, or `cpu` in a rehearsal."""
        return "cpu" if self.rehearse else "cuda"

    def emit(self, kind: str, **fields: Any) -> None:
        """Write one result."""
        emit(self.out, part=self.name, kind=kind, **fields)

    def attempt(self, kind: str, work: Callable[[], dict[str, Any]], **fields: Any) -> dict[str, Any] | None:
        """Make one measurement; an exception is a result too, and the part goes on."""
        if self.left < 2:
            self.emit(kind, **fields, error="no time was left")
            return None
        try:
            found = work()
        except Exception as error:
            traceback.print_exc()
            self.emit(kind, **fields, error=f"{type(error).__name__}: {str(error)[:500]}")
            return None
        self.emit(kind, **fields, **found)
        return found

    def recipe(self, *overrides: str, file: str = "retrievabert-1.3b.yaml") -> Any:
        """Load a shipped recipe; that of the 1.3 B model is tiny in a rehearsal."""
        from retrieva_pretrain.recipe.loading import load_yaml
        from retrieva_pretrain.recipe.schema import Recipe

        tiny = TINY if self.rehearse and file != "demo.yaml" else ()
        return load_yaml(Recipe, ROOT / "recipes" / file, [*tiny, *overrides])

    def join(self, recipe: Any) -> tuple[Any, Any]:
        """Make this process a run of one; returns its ranks and its stop requests, the same at every call."""
        if not self._joined:
            from retrieva_pretrain.training.distributed import initialize
            from retrieva_pretrain.training.stopping import StopRequests

            self._joined += [initialize(recipe), StopRequests()]
        return self._joined[0], self._joined[1]

    def bench(self, recipe: Any) -> Any:
        """Build the model of a recipe and its optimizer; close it before the next one."""
        ranks, stop_requests = self.join(recipe)
        from retrieva_pretrain.preflight.stage_speed import StageBench

        made = StageBench(recipe, 400 if self.rehearse else VOCAB_SIZE, ranks, stop_requests)
        self.emit("built", seconds=made.build_seconds, layers=recipe.model.num_layers)
        return made

    @property
    def folder(self) -> Path:
        """Where commands are started: the demo's data is there. Not `KIT` itself, whose packed sources Python would take
        in the place of these."""
        here = self.work / "here"
        if not here.exists():
            here.mkdir()
            (here / "demo").symlink_to(KIT / "demo")
        return here

    def retrieva(self, log: str, *arguments: str, torchrun: bool = False) -> subprocess.Popen[bytes]:
        """Start the `retrieva` command where the demo's data is; what it says goes to a log of the part."""
        launcher = ["-m", "torch.distributed.run", "--nproc-per-node=1", "--standalone"] if torchrun else []
        with (self.work / f"{log}.log").open("ab") as stream:
            return subprocess.Popen(
                [sys.executable, *launcher, "-m", "retrieva_pretrain", *arguments],
                cwd=self.folder,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def tail(self, log: str, size: int = 1500) -> str:
        """Return the end of a log."""
        return (self.work / f"{log}.log").read_text(encoding="utf-8", errors="replace")[-size:]

    def metrics(self, run: str) -> list[dict[str, Any]]:
        """Return the records of a run of the demo's recipe that this part has started."""
        file = self.work / "runs" / run / "metrics.jsonl"
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]
