"""A training run from its recipe: set up, go on from the newest checkpoint, train to the end.

torchrun --nproc-per-node 4 -m retrieva_pretrain train recipes/retrievabert-1.3b.yaml
"""

from __future__ import annotations

import platform as python_platform
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch

from retrieva_pretrain import platform
from retrieva_pretrain.data.batches import HeldOutSamples, TrainingSamples
from retrieva_pretrain.model.build import build_model, wrap_model
from retrieva_pretrain.model.optimizer import build_optimizer
from retrieva_pretrain.training import distributed
from retrieva_pretrain.training.checkpoint import Checkpointer, load_checkpoint
from retrieva_pretrain.training.evaluation import Evaluator
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
        step = load_checkpoint(newest, model, optimizer) if newest is not None else 0
        stepper = Stepper(recipe, model, optimizer, TrainingSamples(recipe, run.corpora), run.layouts, ranks)
        evaluator = Evaluator(recipe, HeldOutSamples(recipe, run.corpora), ranks)
        checkpointer = Checkpointer(run.folder, run.identity, recipe.checkpoint.keep, ranks)
        metrics = None
        if ranks.is_first:
            run.folder.write_recipe(recipe, run.identity)
            metrics = MetricsLog(
                run.folder.path, stepper.curriculum, step, tensorboard=recipe.logging.tensorboard
            )
            _say_start(run, stepper, newest, metrics, step)
        _loop(stepper, evaluator, checkpointer, metrics, step)
        if metrics is not None:
            metrics.close()
    finally:
        distributed.shut_down()


def _loop(
    stepper: Stepper,
    evaluator: Evaluator,
    checkpointer: Checkpointer,
    metrics: MetricsLog | None,
    step: int,
) -> None:
    """Take the steps from `step` to the end of the curriculum, with evaluations and checkpoints between."""
    recipe, curriculum = stepper.recipe, stepper.curriculum
    if step == 0:
        _evaluate(stepper, evaluator, metrics, step)
    while step < curriculum.total_steps:
        started = time.perf_counter()
        result = stepper.train_step(step)
        platform.current().synchronize()
        step += 1
        if metrics is not None:
            shown = step % recipe.logging.log_interval == 0 or step == curriculum.total_steps
            metrics.train_step(step, result, time.perf_counter() - started, show=shown)
        ends_stage = step == curriculum.stage_steps(curriculum.at(step - 1).index)[1]
        if ends_stage or step % recipe.evaluation.eval_interval == 0:
            _evaluate(stepper, evaluator, metrics, step)
        if ends_stage or step % recipe.checkpoint.save_interval == 0:
            _save(stepper, checkpointer, metrics, step)


def _evaluate(stepper: Stepper, evaluator: Evaluator, metrics: MetricsLog | None, step: int) -> None:
    """Score the held-out text at the length of the stage just trained, and at the longest one."""
    position = stepper.curriculum.at(max(step - 1, 0))
    longest = max(stage.seq_length for stage in stepper.recipe.curriculum)
    for seq_length in sorted({position.seq_length, longest}):
        ceiling = next(
            layout.micro_batch_size
            for stage, layout in zip(stepper.recipe.curriculum, stepper.layouts, strict=True)
            if stage.seq_length == seq_length
        )
        shown = []
        for corpus, scores in evaluator.evaluate(stepper.model, seq_length, ceiling).items():
            if metrics is None:
                continue
            metrics.evaluation(step, corpus, seq_length, **asdict(scores))
            shown.append(f"{corpus} {scores.loss:.3f} ({scores.masked_accuracy:.1%})")
        if shown:
            say(f"held-out text after step {step}, length {seq_length}, loss (accuracy): " + ", ".join(shown))


def _save(stepper: Stepper, checkpointer: Checkpointer, metrics: MetricsLog | None, step: int) -> None:
    started = time.perf_counter()
    path = checkpointer.save(step, stepper.model, stepper.optimizer)
    if metrics is not None:
        seconds = time.perf_counter() - started
        metrics.write("checkpoint", step=step, path=path.name, seconds=seconds)
        say(f"checkpoint {path.name} saved in {seconds:.1f} s")


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
