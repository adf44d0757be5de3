"""What the loop costs over the bare forward, backward and optimizer step on the same batches.

    OMP_NUM_THREADS=1 python benchmarks/loop_overhead.py
    OMP_NUM_THREADS=1 python benchmarks/loop_overhead.py --rounds 2      # a try; writes no page

One process, one model (hidden 256, 4 layers, bf16), 32 samples of 128 tokens a step in micro-batches of 8, over a
corpus of random words made for the purpose. Blocks of steps are taken in turn: `bare` calls Megatron's
forward-backward function and the optimizer on micro-batches that lie ready as tensors; `loop` is `Loop.run` itself
over the same steps' samples: reading, packing, masking, random streams seeded, skip policy, votes to stop, watchdog,
metrics.jsonl, TensorBoard, a line a step, and the question whether to save or evaluate. The ratio is taken between
neighbours, and its median and spread are told. No checkpoint is written and nothing evaluated inside a block.
Takes some ten minutes and writes docs/benchmarks/loop-overhead.md.
"""

from __future__ import annotations

import argparse
import os
import platform as python_platform
import random
import statistics
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from megatron.core.pipeline_parallel import get_forward_backward_func

from data_prep.build import build
from data_prep.corpus import CorpusConfig, TokenizerConfig
from data_prep.train_tokenizer import train_tokenizer
from retrieva_pretrain.data.batches import HeldOutSamples, TrainingSamples
from retrieva_pretrain.model.build import build_model, wrap_model
from retrieva_pretrain.model.optimizer import build_optimizer
from retrieva_pretrain.planning.flops import training_flops
from retrieva_pretrain.recipe.layout import scored_slots
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.training.batch import MicroBatch, host_batch, to_device
from retrieva_pretrain.training.checkpoint import Checkpointer
from retrieva_pretrain.training.distributed import initialize, shut_down
from retrieva_pretrain.training.evaluation import Evaluator
from retrieva_pretrain.training.interval import Work
from retrieva_pretrain.training.loop import Loop
from retrieva_pretrain.training.metrics import MetricsLog
from retrieva_pretrain.training.prepare import prepare
from retrieva_pretrain.training.step import Stepper
from retrieva_pretrain.training.stopping import StopRequests
from retrieva_pretrain.training.watchdog import Watchdog

PAGE = Path("docs/benchmarks/loop-overhead.md")
BLOCK = 3
ROUNDS = 60
RECIPE = """
name: overhead
runs_dir: {folder}/runs
model: {{num_layers: 4, hidden_size: 256, ffn_hidden_size: 704, num_attention_heads: 4, num_query_groups: 1,
        max_position_embeddings: 128}}
tokenizer: {{model: {tokenizer}}}
data: {{blend: [{{path: {folder}/corpus}}]}}
optimizer: {{lr: 1.0e-4}}
global_batch_size: 32
curriculum: [{{seq_length: 128, train_iters: 100000, max_micro_batch_size: 8}}]
checkpoint: {{save_interval: 1000000}}
evaluation: {{eval_interval: 1000000, samples_per_corpus: 8}}
"""

Times = tuple[float, float]


class Bench:
    """One model, and the two ways to take its steps."""

    def __init__(self, folder: Path) -> None:
        tokenizer = make_corpus(folder)
        file = folder / "overhead.yaml"
        file.write_text(RECIPE.format(folder=folder, tokenizer=tokenizer), encoding="utf-8")
        self.recipe = recipe = load_yaml(Recipe, file)
        self.run = run = prepare(recipe)
        run.folder.write_recipe(recipe, run.identity)
        ranks = initialize(recipe)
        self.watchdog = Watchdog(recipe.faults, 0, 1, on_hang=print)
        model = wrap_model(recipe, build_model(recipe, run.padded_vocab_size))
        self.stepper = Stepper(
            recipe,
            model,
            build_optimizer(recipe, model),
            TrainingSamples(recipe, run.corpora),
            run.layouts,
            ranks,
            run=run.folder.path,
            stop_requests=StopRequests(),
            watchdog=self.watchdog,
        )
        self.model, self.optimizer = model, self.stepper.optimizer
        work = Work(self.stepper.curriculum, training_flops(recipe, run.padded_vocab_size), 1, None)
        self.metrics = MetricsLog(run.folder.path, work, 0, tensorboard=True)
        self.saver = Checkpointer(run.folder, run.identity, recipe.checkpoint, ranks, metrics=self.metrics)
        self.loop = Loop(
            self.stepper,
            Evaluator(recipe, HeldOutSamples(recipe, run.corpora), ranks),
            self.saver,
            self.metrics,
        )
        self.reading = TrainingSamples(recipe, run.corpora)

    def batches(self, step: int) -> list[list[MicroBatch]]:
        """Return the micro-batches of a block of steps, as tensors."""
        slots = scored_slots(self.recipe.objective.masking_probability, 128)
        return [
            [
                to_device(host_batch(rows, int(numbers[0]), slots))
                for numbers, rows in self.reading.micro_batches(s, 0, 1, 8)
            ]
            for s in range(step, step + BLOCK)
        ]

    def bare(self, step: int) -> Times:
        """Take a block of steps with nothing round them; returns its times a step."""
        block = self.batches(step)
        forward_backward = get_forward_backward_func()

        def forward(batches, module):  # type: ignore[no-untyped-def]
            batch = next(batches)
            output = module(
                input_ids=batch.input_ids, scored_positions=batch.scored_positions, labels=batch.labels
            )

            def loss(found):  # type: ignore[no-untyped-def]
                total = (found[0].float() * batch.loss_weights).sum()
                return total, batch.loss_weights.sum().int(), {"loss": total.detach()}

            return output, loss

        started = times()
        for batches in block:
            self.model.zero_grad_buffer()
            self.optimizer.zero_grad()
            forward_backward(
                forward_step_func=forward,
                data_iterator=iter(batches),
                model=[self.model],
                num_microbatches=len(batches),
                seq_length=128,
                micro_batch_size=8,
                forward_only=False,
            )
            self.optimizer.step()
        return since(started)

    def looped(self, step: int) -> Times:
        """Take the same steps with the run's own loop; returns its times a step."""
        # The loop ends where the curriculum does.
        self.loop.curriculum = EndsAt(self.stepper.curriculum, step + BLOCK)  # type: ignore[assignment]
        started = times()
        self.loop.run(step)
        return since(started)


def times() -> Times:
    """Return the clock, and the CPU time of all threads of this process."""
    return time.perf_counter(), time.process_time()


def since(started: Times) -> Times:
    """Return the times a step of the block that began then."""
    clock, cpu = times()
    return (clock - started[0]) / BLOCK, (cpu - started[1]) / BLOCK


class EndsAt:
    """A curriculum that the loop leaves after so many steps; its stage does not end there."""

    def __init__(self, curriculum: object, end: int) -> None:
        self._curriculum = curriculum
        self.total_steps = end

    def __getattr__(self, name: str) -> object:
        return getattr(self._curriculum, name)


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, help="pairs of blocks; fewer than the page's 30 write no page")
    parser.add_argument("--profile", action="store_true", help="show where Python spends a block of the loop")
    chosen = parser.parse_args()
    with TemporaryDirectory(prefix="loop-overhead-") as folder:
        bench = Bench(Path(folder))
        try:
            if chosen.profile:
                profile(bench)
                return
            found = measure(bench, chosen.rounds or ROUNDS)
        finally:
            bench.stepper.prefetch.close()
            bench.metrics.close()
            shut_down()
            bench.watchdog.close()
    text = page(found)
    print(text)
    if chosen.rounds is None:
        PAGE.write_text(text, encoding="utf-8")


def profile(bench: Bench) -> None:
    """Print the functions in which a block of the loop spends its time."""
    import cProfile
    import pstats

    bench.looped(1)
    with cProfile.Profile() as watched:
        bench.looped(1 + BLOCK)
    pstats.Stats(watched).sort_stats("cumulative").print_stats("retrieva_pretrain|tensorboard|json", 45)


def page(found: list[tuple[Times, Times]]) -> str:
    """Return the page of the measurement."""
    clock, cpu = ([(bare[way], looped[way]) for bare, looped in found] for way in (0, 1))
    rows = [
        [
            f"{statistics.median(column) * 1000:.1f}"
            for pairs in (clock, cpu)
            for column in [[p[i] for p in pairs]]
        ]
        for i in (0, 1)
    ]
    spreads = [spread([looped / bare for bare, looped in pairs]) for pairs in (clock, cpu)]
    return f"""# What the loop costs over bare steps

- Script: `OMP_NUM_THREADS={os.environ.get("OMP_NUM_THREADS", "?")} python benchmarks/loop_overhead.py`; its first
  lines say what is measured.
- Date: {date.today()}; {os.cpu_count()} CPU cores, no GPU; load average {os.getloadavg()[0]:.1f} at the end.
  Python {python_platform.python_version()}, torch {version("torch")}, megatron-core {version("megatron-core")}.

A model of 4 layers and hidden 256 in bf16, 32 samples of 128 tokens a step in 4 micro-batches, a vocabulary of 3,000;
{len(found)} pairs of blocks of {BLOCK} steps, the two ways in turn in one process.

| median | by the clock | CPU time of all threads |
| --- | ---: | ---: |
| bare forward, backward and optimizer, ms a step | {" | ".join(rows[0])} |
| the loop, ms a step | {" | ".join(rows[1])} |
| **ratio of neighbouring blocks** | {" | ".join(f"**{of[1]:.4f}**" for of in spreads)} |
| half of the ratios lie between | {" | ".join(f"{of[0]:.4f} and {of[2]:.4f}" for of in spreads)} |

On a busy machine the clock tells little and CPU time more; it counts the thread that makes the samples, too.
The goal is at most 1.03. Bare steps get micro-batches that lie ready as tensors, and compute what Megatron's own step
computes, the norm and the clipping of the gradient included. The loop reads, packs and masks them (in a thread beside
the steps), seeds every random stream for each micro-batch, adds up the scores, judges the step, counts votes to stop,
tells the watchdog, writes `metrics.jsonl` and TensorBoard and prints a line, all at every step.
Checkpoints and evaluations are scheduled but none falls into a block: how long a save holds the training is in every
run's log and `metrics.jsonl` (`stall_seconds`).
"""


def spread(ratios: list[float]) -> list[float]:
    """Return the quartiles."""
    return statistics.quantiles(ratios, n=4)


def make_corpus(folder: Path) -> Path:
    """Write a tokenizer of 3,000 pieces and a corpus of some 2 M tokens of random words; returns the tokenizer's path."""
    draw = random.Random(0)
    words = [
        "".join(draw.choices("abcdefghijklmnopqrstuvwxyzあいうえおかきくけこ", k=draw.randint(2, 8)))
        for _ in range(9000)
    ]
    text, model = folder / "text.txt", folder / "pieces.model"
    text.write_text("\n".join(" ".join(draw.choices(words, k=150)) for _ in range(4000)), encoding="utf-8")
    corpus = CorpusConfig(
        name="corpus",
        source="text",
        files=[str(text)],
        options={"document": "line"},
        tokenizer=TokenizerConfig(model=str(model)),
    )
    train_tokenizer([corpus], model, 3000)
    build(corpus, folder)
    return model


def measure(bench: Bench, rounds: int) -> list[tuple[Times, Times]]:
    """Take `rounds` pairs of blocks, each pair over the same steps; returns the times a step of both."""
    bench.bare(0)
    bench.stepper.train_step(0)
    found = []
    for number in range(rounds):
        step = 1 + number * BLOCK
        if number % 2:
            bare, looped = bench.bare(step), bench.looped(step)
        else:
            looped, bare = bench.looped(step), bench.bare(step)
        found.append((bare, looped))
        ratios = " and ".join(f"{after / before:.4f}" for before, after in zip(bare, looped, strict=True))
        print(
            f"round {number + 1}: bare {bare[0]:.3f} s a step; ratio by the clock and in CPU time {ratios}",
            flush=True,
        )
    return found


if __name__ == "__main__":
    main()
