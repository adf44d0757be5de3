"""The demo's recipe, shortened, trained as a user trains it: through three stages, plainly and under torchrun."""

from __future__ import annotations

import time

from part import ROOT, Part, wait_for

STAGES = (
    "curriculum=[{seq_length: 16, train_iters: 60, max_micro_batch_size: 64},"
    " {seq_length: 32, train_iters: 40, max_micro_batch_size: 32},"
    " {seq_length: 128, train_iters: 20, max_micro_batch_size: 8}]"
)
FEW = (
    "curriculum=[{seq_length: 16, train_iters: 4, max_micro_batch_size: 32},"
    " {seq_length: 32, train_iters: 3, max_micro_batch_size: 16}]"
)


def train_command(part: Part, name: str, *overrides: str) -> list[str]:
    """Return the command that trains the demo's recipe into the part's own folder."""
    recipe = str(ROOT / "recipes" / "demo.yaml")
    return ["train", recipe, f"runs_dir={part.work / 'runs'}", f"name={name}", *overrides]


def run(part: Part) -> None:
    """Train."""
    ways = [("plain", [])] if part.rehearse else [("plain", []), ("torchrun", ["--profile", "2-3"])]
    for name, options in ways:
        began = time.time()
        stages = [FEW, "global_batch_size=32"] if part.rehearse else [STAGES]
        command = train_command(part, name, *stages, "logging.log_interval=20", *options)
        code = wait_for(part.retrieva(name, *command, torchrun=name == "torchrun"), part.left - 2)
        records = part.metrics(name)
        trained = [r for r in records if r["kind"] == "train"]
        part.emit(
            "run",
            name=name,
            code=code,
            seconds=time.time() - began,
            steps=len(trained),
            losses=[r["loss"] for r in trained[:: max(1, len(trained) // 6)]],
            platform=[r.get("platform") for r in records if r["kind"] == "start"],
            checkpoints=[r["step"] for r in records if r["kind"] == "checkpoint"],
            evaluations=sum(r["kind"] == "evaluation" for r in records),
            traces=[p.name for p in (part.work / "runs" / name / "profile").glob("*.json")],
            **({} if code == 0 else {"error": part.tail(name)}),
        )
