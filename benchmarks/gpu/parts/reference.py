"""A run on this GPU against `benchmarks/reference_loop.py`: plain PyTorch on its export, the same samples, fp32."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec

from part import ROOT, Part, wait_for
from parts.demo import train_command

LOOP = ROOT / "benchmarks" / "reference_loop.py"
SETTINGS = (
    "precision=fp32",
    "model.hidden_dropout=0.0",
    "model.attention_dropout=0.0",
    "optimizer.lr_warmup_fraction=0.2",
    "optimizer.weight_decay=0.1",
    "optimizer.clip_grad=0.5",
    "checkpoint.save_interval=1000",
    "checkpoint.keep=9",
    "logging.tensorboard=false",
)
STAGES = (
    "curriculum=[{seq_length: 16, train_iters: 1, max_micro_batch_size: 32},"
    " {seq_length: 16, train_iters: LONG, max_micro_batch_size: 32},"
    " {seq_length: 32, train_iters: LONG, max_micro_batch_size: 16}]"
)


def run(part: Part) -> None:
    """Train, export step 1, train again by the loop, compare."""
    missing = [name for name in ("transformers", "safetensors") if find_spec(name) is None]
    if missing or not LOOP.exists():
        part.emit("reference", skipped=f"not there: {', '.join(missing) or LOOP.name}")
        return
    stages = STAGES.replace("LONG", "4" if part.rehearse else "30")
    few = ("global_batch_size=32",) if part.rehearse else ()
    command = train_command(part, "reference", *SETTINGS, stages, *few)
    code = wait_for(part.retrieva("train", *command), part.left - 2)
    if code != 0:
        part.emit("reference", error=part.tail("train"))
        return
    folder, export = part.work / "runs" / "reference", part.work / "export"
    code = wait_for(part.retrieva("export", "export", str(folder), str(export), "--step", "1"), part.left - 2)
    if code != 0:
        part.emit("reference", error=part.tail("export"))
        return
    done = subprocess.run(
        [sys.executable, str(LOOP), str(folder), str(export), "--device", part.device, "--json"],
        cwd=part.folder,
        capture_output=True,
        text=True,
        timeout=max(part.left - 2, 1),
    )
    line = next((line for line in done.stdout.splitlines() if line.startswith("{")), None)
    found = {"error": (done.stdout + done.stderr)[-1500:]} if line is None else json.loads(line)
    part.emit("reference", within=done.returncode == 0, **found)
