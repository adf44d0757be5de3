"""SDPA against unfused attention on the CPU: what `attention_backend: auto` should mean there.

    OMP_NUM_THREADS=1 python benchmarks/attention_on_cpu.py
    OMP_NUM_THREADS=1 python benchmarks/attention_on_cpu.py --rounds 3      # a try; writes no page

Two models that differ in their attention only take turns over the same micro-batch: forward and backward of the whole
model, as a training step calls them, at the largest micro-batch of each of the demo's stages and with a wider model.
The order changes from round to round. The ratio is taken between neighbours, in CPU time: another program on the
machine then counts little. Writes docs/benchmarks/attention-on-cpu.md.
"""

from __future__ import annotations

import argparse
import os
import platform as python_platform
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from itertools import product
from pathlib import Path

import torch
from megatron.core.distributed import DistributedDataParallel

from retrieva_pretrain.demo import VOCAB_SIZE
from retrieva_pretrain.model.build import build_model, wrap_model
from retrieva_pretrain.recipe.layout import padded_vocab_size, scored_slots
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.training.batch import MicroBatch
from retrieva_pretrain.training.distributed import initialize, seed_random_streams, shut_down
from retrieva_pretrain.training.step import run_micro_batches

PAGE = Path("docs/benchmarks/attention-on-cpu.md")
ROUNDS = 16
VOCABULARY = padded_vocab_size(VOCAB_SIZE, 128)
BACKENDS = ("unfused", "sdpa")
WIDER = (
    "model.num_layers=4",
    "model.hidden_size=256",
    "model.ffn_hidden_size=704",
    "model.num_attention_heads=4",
)
# Settings, samples and length of a micro-batch, and the dropout that the recipe of such a model has.
SHAPES: dict[str, tuple[tuple[str, ...], int, int, float]] = {
    "demo, stage 1": ((), 64, 16, 0.03),
    "demo, stage 2": ((), 32, 32, 0.03),
    "demo, stage 3": ((), 16, 64, 0.03),
    "demo, stage 4": ((), 8, 128, 0.03),
    "wider, 128": (WIDER, 8, 128, 0.1),
    "wider, 512": ((*WIDER, "model.max_position_embeddings=512"), 2, 512, 0.1),
}


@dataclass(frozen=True)
class Found:
    """The times of one shape, precision and dropout."""

    shape: str
    precision: str
    dropout: float
    pairs: list[tuple[float, float]]
    """CPU seconds of a micro-batch with unfused attention and with SDPA, neighbours in time."""

    def median(self, backend: int) -> float:
        """Return the median of the milliseconds of one of the two."""
        return 1000 * statistics.median(pair[backend] for pair in self.pairs)

    def ratios(self) -> list[float]:
        """Return the quartiles of SDPA's time over that of unfused attention."""
        return statistics.quantiles([sdpa / unfused for unfused, sdpa in self.pairs], n=4)


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, help=f"pairs per row; other than {ROUNDS}: no page is written")
    chosen = parser.parse_args()
    initialize(_recipe("unfused", "fp32", 0.0, ()))
    try:
        found = list(measure(chosen.rounds or ROUNDS))
    finally:
        shut_down()
    text = page(found)
    print(text)
    if chosen.rounds is None:
        PAGE.write_text(text, encoding="utf-8")


def measure(rounds: int) -> Iterator[Found]:
    """Yield the times of every row."""
    for (shape, (settings, samples, length, share)), precision in product(SHAPES.items(), ("fp32", "bf16")):
        batch = _micro_batch(samples, length)
        for dropout in (0.0, share):
            models = []
            for backend in BACKENDS:
                recipe = _recipe(backend, precision, dropout, settings)
                models.append(wrap_model(recipe, build_model(recipe, VOCABULARY)))
            for model in models * 2:
                seconds(model, batch)
            pairs = []
            for number in range(rounds):
                order = (0, 1) if number % 2 else (1, 0)
                times = {index: seconds(models[index], batch) for index in order}
                pairs.append((times[0], times[1]))
            found = Found(shape, precision, dropout, pairs)
            print(f"{shape} {precision} dropout {dropout}: {found.ratios()[1]:.3f}", flush=True)
            yield found


def seconds(model: DistributedDataParallel, batch: MicroBatch) -> float:
    """Return the CPU time of forward and backward of one micro-batch."""
    samples, length = batch.input_ids.shape
    seed_random_streams(1, 0, 0)
    model.zero_grad_buffer()
    started = time.process_time()
    run_micro_batches(model, iter([batch]), seq_length=length, micro_batch_size=samples, num_microbatches=1)
    return time.process_time() - started


def _recipe(backend: str, precision: str, dropout: float, settings: tuple[str, ...]) -> Recipe:
    overrides = [
        f"precision={precision}",
        f"kernels.attention_backend={backend}",
        f"model.hidden_dropout={dropout}",
        f"model.attention_dropout={dropout}",
        *settings,
    ]
    return load_yaml(Recipe, Path("recipes/demo.yaml"), overrides)


def _micro_batch(samples: int, length: int) -> MicroBatch:
    draw = torch.Generator().manual_seed(1)
    slots = scored_slots(0.15, length)
    return MicroBatch(
        0,
        torch.randint(8, VOCABULARY, (samples, length), generator=draw),
        torch.randint(0, length, (samples, slots), generator=draw).sort(1)[0],
        torch.randint(8, VOCABULARY, (samples, slots), generator=draw),
        torch.ones(samples, slots),
    )


def page(found: list[Found]) -> str:
    """Return the page of the measurement."""
    rows = []
    for row in found:
        _, samples, length, _ = SHAPES[row.shape]
        low, middle, high = row.ratios()
        rows.append(
            f"| {row.shape}: {samples} x {length} | {row.precision} | {row.dropout:g} | {row.median(0):.1f} |"
            f" {row.median(1):.1f} | **{middle:.2f}** | {low:.2f} to {high:.2f} |"
        )
    everything = [row.ratios()[1] for row in found]
    slower = sum(row.ratios()[0] > 1.01 for row in found)
    faster = sum(row.ratios()[2] < 0.99 for row in found)
    table = "\n".join(rows)
    return f"""# SDPA against unfused attention on the CPU

- Script: `OMP_NUM_THREADS={os.environ.get("OMP_NUM_THREADS", "?")} python benchmarks/attention_on_cpu.py`; its first
  lines say how it measures.
- Date: {date.today()}; {os.cpu_count()} CPU cores, no GPU; load average {os.getloadavg()[0]:.1f} at the end.
  Python {python_platform.python_version()}, torch {version("torch")}, megatron-core {version("megatron-core")}.

Forward and backward of the whole model for one micro-batch; {len(found[0].pairs)} pairs per row, the two kernels in turn in one
process. The demo's model has 2 layers of width 128, the wider one 4 layers of width 256; both have 4 heads, 1 query group
and a vocabulary of {VOCABULARY:,}.

| samples x length | precision | dropout | unfused, CPU ms | SDPA, CPU ms | SDPA / unfused | half of the ratios |
| --- | --- | ---: | ---: | ---: | ---: | --- |
{table}

Three quarters of the ratios are above 1.01 in {slower} of the {len(found)} rows, and below 0.99 in {faster}; the median of all rows is
{statistics.median(everything):.2f}. SDPA is slower in the first kind of row, faster in the second, and equal within the noise elsewhere. This is
what `attention_backend: auto` on the CPU goes by; it means `unfused` there ([kernels](../kernels.md)).

On the CPU torch has a fused kernel without dropout only; with dropout it runs a plain sequence of products that keeps the
scores.
"""


if __name__ == "__main__":
    main()
