"""A training run from its recipe: set up, go on from the newest checkpoint, train to the end.

torchrun --nproc-per-node 4 -m retrieva_pretrain train recipes/retrievabert-1.3b.yaml
"""

from __future__ import annotations

import platform as python_platform
from importlib.metadata import version
from pathlib import Path

import torch

from retrieva_pretrain import platform
from retrieva_pretrain.data.batches import HeldOutSamples, TrainingSamples
from retrieva_pretrain.data.indexing import ProgressLines, ensure_indexes
from retrieva_pretrain.model.build import build_model, wrap_model
from retrieva_pretrain.model.optimizer import build_optimizer
from retrieva_pretrain.training import distributed
from retrieva_pretrain.training.checkpoint import Checkpointer, load_checkpoint
from retrieva_pretrain.training.evaluation import Evaluator
from retrieva_pretrain.training.loop import Loop
from retrieva_pretrain.training.metrics import MetricsLog, say
from retrieva_pretrain.training.prepare import PreparedRun
from retrieva_pretrain.training.step import Stepper


def train(run: PreparedRun) -> None:
    """Train to the end of the curriculum, from the run's newest checkpoint where there is one."""
    recipe = run.recipe
    torch.use_deterministic_algorithms(recipe.deterministic)
    ranks = distributed.initialize(recipe)
    try:
        model = wrap_model(recipe, build_model(recipe, run.padded_vocab_size))
        optimizer = build_optimizer(recipe, model)
        # The first process chooses the checkpoint, so that all load the same one.
        newest = distributed.from_first(run.folder.newest_checkpoint() if ranks.is_first else None)
        step, state = load_checkpoint(newest, model, optimizer) if newest is not None else (0, {})
        distributed.first_then_others(lambda: _ensure_indexes(run, step, ranks))
        stepper = Stepper(recipe, model, optimizer, TrainingSamples(recipe, run.corpora), run.layouts, ranks)
        stepper.load_state(state)
        evaluator = Evaluator(recipe, HeldOutSamples(recipe, run.corpora), ranks)
        checkpointer = Checkpointer(run.folder, run.identity, recipe.checkpoint.keep, ranks)
        metrics = None
        if ranks.is_first:
            run.folder.write_recipe(recipe, run.identity)
            metrics = MetricsLog(
                run.folder.path, stepper.curriculum, step, tensorboard=recipe.logging.tensorboard
            )
            _say_start(run, stepper, newest, metrics, step)
        Loop(stepper, evaluator, checkpointer, metrics).run(step)
        if metrics is not None:
            metrics.close()
    finally:
        distributed.shut_down()


def _ensure_indexes(run: PreparedRun, step: int, ranks: distributed.Ranks) -> None:
    """See to the index files of large corpora; whoever makes one says so."""
    watch = ProgressLines(say, 15.0) if ranks.is_first else None
    for indexed in ensure_indexes(run.recipe, run.corpora, step, watch=watch):
        if indexed.built:
            say(str(indexed))


def _say_start(
    run: PreparedRun, stepper: Stepper, newest: Path | None, metrics: MetricsLog, step: int
) -> None:
    """Say what is about to run, the arithmetic of its tokens included, and note the versions."""
    recipe, curriculum = run.recipe, stepper.curriculum
    machine = platform.current()
    versions = {name: version(name) for name in ("torch", "megatron-core", "sentencepiece", "numpy")}
    say(
        f"run {recipe.name}: {curriculum.total_steps:,} steps, {curriculum.total_samples:,} samples,"
        f" {curriculum.total_tokens:,} positions, on {stepper.ranks.world_size} {machine.name} processes"
        f" (data parallel {stepper.ranks.data_parallel_size}), {recipe.precision}"
    )
    for index, (stage, layout) in enumerate(zip(recipe.curriculum, stepper.layouts, strict=True)):
        say(
            f"  stage {index + 1}: length {stage.seq_length}, {stage.train_iters:,} steps of"
            f" {recipe.global_batch_size} samples = {layout.data_parallel_size} x {layout.num_microbatches}"
            f" micro-batches of {layout.micro_batch_size}"
        )
    for line in _data_lines(run, stepper):
        say(line)
    say(
        f"  vocabulary {run.corpora.tokenizer.vocab_size:,} padded to {run.padded_vocab_size:,};"
        f" Python {python_platform.python_version()}, " + ", ".join(f"{n} {v}" for n, v in versions.items())
    )
    packages = platform.optional_packages()
    say(
        "  "
        + ", ".join(f"{name} {'found' if found else 'not installed'}" for name, found in packages.items())
    )
    if newest is not None:
        say(f"going on from {newest.name}")
    metrics.write(
        "start", step=step, world_size=stepper.ranks.world_size, platform=machine.name, versions=versions
    )


def _data_lines(run: PreparedRun, stepper: Stepper) -> list[str]:
    """Say of every corpus what one reading of it is, its share, and how often it has been read after each stage."""
    positions, curriculum = stepper.samples.positions, stepper.curriculum
    ends = [curriculum.stage_steps(index)[1] for index in range(len(run.recipe.curriculum))]
    epochs = [positions.epochs(end) for end in ends]  # [stages][corpora]
    shares = positions.blend.per_period / positions.blend.period
    return [
        f"  corpus {name}: {tokens:,} tokens, {share:.2%} of the samples, read "
        + ", ".join(f"{times[corpus]:.2f}" for times in epochs)
        + " times by the end of each stage"
        for corpus, (name, tokens, share) in enumerate(
            zip(positions.names, positions.epoch_tokens, shares.tolist(), strict=True)
        )
    ]
