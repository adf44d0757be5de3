"""What a save costs the training: the stall of the loop, and the steps beside the writing.

    python -m torch.distributed.run --nproc-per-node=2 benchmarks/checkpoint_stall.py

Trains a model of 54 M parameters on invented batches with two processes on the CPU (bf16, distributed optimizer),
without saves, with saves beside the training, and with saves that hold it; all in one run. Writes
docs/benchmarks/checkpoint-stall.md. Takes a few minutes; run it on a quiet machine.
"""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from retrieva_pretrain.model.build import build_model, wrap_model
from retrieva_pretrain.model.optimizer import build_optimizer, set_learning_rate
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.training.batch import MicroBatch
from retrieva_pretrain.training.checkpoint import Checkpointer
from retrieva_pretrain.training.distributed import from_first, initialize, shut_down
from retrieva_pretrain.training.run_folder import RunFolder
from retrieva_pretrain.training.step import prepare_gradients, run_micro_batches, update_weights

RECIPE = Path("recipes/retrievabert-1.3b.yaml")
PAGE = Path("docs/benchmarks/checkpoint-stall.md")
SHAPE = {
    "num_layers": 12,
    "hidden_size": 512,
    "ffn_hidden_size": 1365,
    "num_attention_heads": 8,
}
VOCABULARY, SAMPLES, SEQ_LENGTH, SLOTS = 32_768, 8, 128, 20
STEPS, SAVES = 6, 3


class Records:
    """Takes the records that a run would write to `metrics.jsonl`."""

    def __init__(self) -> None:
        self.saves: list[dict[str, Any]] = []

    def write(self, kind: str, **fields: Any) -> None:
        """Keep what is told of checkpoints."""
        if kind == "checkpoint":
            self.saves.append(fields)


def main() -> None:
    """Measure and write the page."""
    recipe = load_yaml(Recipe, RECIPE, [f"model.{name}={value}" for name, value in SHAPE.items()])
    ranks = initialize(recipe)
    model = wrap_model(recipe, build_model(recipe, VOCABULARY))
    optimizer = build_optimizer(recipe, model)
    parameters = sum(p.numel() for p in model.parameters())
    folder = from_first(Path(tempfile.mkdtemp(prefix="checkpoint-stall-")))
    step = 0

    def train_step() -> float:
        nonlocal step
        started = time.perf_counter()
        set_learning_rate(optimizer, recipe, 1e-4)
        model.zero_grad_buffer()
        optimizer.zero_grad()
        batch = invented(step * ranks.world_size + ranks.rank)
        run_micro_batches(
            model, iter([batch]), seq_length=SEQ_LENGTH, micro_batch_size=SAMPLES, num_microbatches=1
        )
        update_weights(optimizer, recipe.optimizer.clip_grad, prepare_gradients(optimizer))
        step += 1
        return time.perf_counter() - started

    def with_saves(name: str, *, asynchronous: bool) -> tuple[list[float], list[dict[str, Any]]]:
        records: Any = Records()
        config = recipe.checkpoint.model_copy(update={"async_save": asynchronous, "keep": 1})
        saver = Checkpointer(RunFolder(folder / name), {}, config, ranks, metrics=records)
        times = []
        for _ in range(SAVES):
            saver.save(step, model, optimizer, {})
            for _ in range(STEPS):
                if saver.is_saving or not asynchronous:
                    times.append(train_step())
                    saver.poll(step)
        saver.finish()
        return times, records.saves

    for _ in range(3):
        train_step()
    alone = [train_step() for _ in range(STEPS)]
    beside, saves = with_saves("beside", asynchronous=True)
    alone += [train_step() for _ in range(STEPS)]
    _, held = with_saves("held", asynchronous=False)
    size = sum(f.stat().st_size for f in next((folder / "held").rglob("step_*")).iterdir())
    if ranks.is_first:
        shutil.rmtree(folder)
        PAGE.write_text(page(parameters, size, alone, beside, saves, held), encoding="utf-8")
        print(PAGE.read_text(encoding="utf-8"))
    shut_down()


def invented(number: int) -> MicroBatch:
    """Return a micro-batch of drawn tokens."""
    draw = torch.Generator().manual_seed(number)
    return MicroBatch(
        first_sample=number,
        input_ids=torch.randint(VOCABULARY, (SAMPLES, SEQ_LENGTH), generator=draw),
        scored_positions=torch.arange(SLOTS).expand(SAMPLES, SLOTS).contiguous(),
        labels=torch.randint(VOCABULARY, (SAMPLES, SLOTS), generator=draw),
        loss_weights=torch.ones(SAMPLES, SLOTS),
    )


def page(
    parameters: int,
    size: int,
    alone: list[float],
    beside: list[float],
    saves: list[dict[str, Any]],
    held: list[dict[str, Any]],
) -> str:
    """Return the page of the results."""

    def median(records: list[dict[str, Any]], field: str) -> float:
        return statistics.median(float(record[field]) for record in records)

    return f"""# What a save costs the training

Medians of {SAVES} saves and {STEPS} or more steps. The model has {parameters / 1e6:.0f} M parameters and its checkpoint
{size / 1e6:,.0f} MB; two processes share the CPUs that also write and hash, bf16, distributed optimizer, local disk.

- Script: `python -m torch.distributed.run --nproc-per-node=2 benchmarks/checkpoint_stall.py`.
- Date: {date.today()}; {platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, torch \
{version("torch")}, megatron-core {version("megatron-core")}; load of the machine at the end: {os.getloadavg()[0]:.1f}.

| | seconds until whole | the loop is held, seconds | a step, seconds |
| --- | ---: | ---: | ---: |
| no save | | | {statistics.median(alone):.3f} |
| `async_save: true` | {median(saves, "seconds"):.2f} | {median(saves, "stall_seconds"):.2f} | \
{statistics.median(beside):.3f} while one is written |
| `async_save: false` | {median(held, "seconds"):.2f} | {median(held, "stall_seconds"):.2f} | |

A save beside the training holds the loop for {median(saves, "stall_seconds") / median(held, "stall_seconds"):.2f} of the time that a save in its way does, and steps take
{statistics.median(beside) / statistics.median(alone):.2f} of their time while it is written: here the writers take the very CPUs that train. On a GPU they would take
those of the host; that was not measured.
"""


if __name__ == "__main__":
    main()
