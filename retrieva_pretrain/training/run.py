"""A training run from its recipe: set up, go on from the newest checkpoint, train to the end.

torchrun --nproc-per-node 4 -m retrieva_pretrain train recipes/retrievabert-1.3b.yaml
"""

from __future__ import annotations

import json
import logging
import platform as python_platform
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from data_prep.whole_files import write_whole
from retrieva_pretrain import platform
from retrieva_pretrain.curriculum.stages import Curriculum
from retrieva_pretrain.data.batches import HeldOutSamples, TrainingSamples
from retrieva_pretrain.data.corpora import Corpora
from retrieva_pretrain.errors import CheckpointError
from retrieva_pretrain.model.build import build_model, wrap_model
from retrieva_pretrain.model.optimizer import build_optimizer
from retrieva_pretrain.recipe.identity import differences, identity
from retrieva_pretrain.recipe.layout import check_vocabulary, padded_vocab_size, stage_layouts
from retrieva_pretrain.recipe.loading import dump_yaml
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.training import distributed
from retrieva_pretrain.training.checkpoint import CheckpointFolder, newest_for_all
from retrieva_pretrain.training.evaluation import Evaluator
from retrieva_pretrain.training.metrics import MetricsLog, say
from retrieva_pretrain.training.step import Stepper

log = logging.getLogger(__name__)


def run_folder(recipe: Recipe) -> Path:
    """Return the folder of a run: runs_dir/name."""
    return Path(recipe.runs_dir) / recipe.name


def train(recipe: Recipe) -> None:
    """Train a recipe to its end, from its newest checkpoint where there is one.

    Everything that can be refused is refused before a process group is joined or a file is written.

    Raises:
        RecipeError: the recipe does not fit this number of processes or this vocabulary.
        CorpusError: a corpus is not there, is damaged, or was made with another tokenizer.
        CheckpointError: the run's folder belongs to another recipe.
    """
    layouts = stage_layouts(recipe, distributed.world_size_from_environment())
    corpora = Corpora.open(recipe)
    check_vocabulary(recipe, corpora.tokenizer.vocab_size)
    made_of = identity(recipe, corpora.fingerprints, corpora.tokenizer.sha256)
    folder = run_folder(recipe)
    checkpoints = CheckpointFolder(folder / "checkpoints", made_of, recipe.checkpoint.keep)
    checkpoints.refuse_other_recipe()
    _refuse_other_run(folder, made_of)

    torch.use_deterministic_algorithms(recipe.deterministic)
    ranks = distributed.initialize(recipe)
    try:
        padded = padded_vocab_size(
            corpora.tokenizer.vocab_size, recipe.tokenizer.make_vocab_size_divisible_by
        )
        model = wrap_model(recipe, build_model(recipe, padded))
        optimizer = build_optimizer(recipe, model)
        newest = newest_for_all(checkpoints, ranks)
        step = checkpoints.load(newest, model, optimizer) if newest is not None else 0
        stepper = Stepper(recipe, model, optimizer, TrainingSamples(recipe, corpora), layouts, ranks)
        evaluator = Evaluator(recipe, HeldOutSamples(recipe, corpora), ranks)
        metrics = None
        if ranks.is_first:
            _write_run_folder(folder, recipe, made_of)
            metrics = MetricsLog(folder, stepper.curriculum, step, tensorboard=recipe.logging.tensorboard)
            _say_start(recipe, stepper, corpora, padded, newest, metrics, step)
        _loop(stepper, evaluator, checkpoints, metrics, step)
        if metrics is not None:
            metrics.close()
    finally:
        distributed.shut_down()


def _loop(
    stepper: Stepper,
    evaluator: Evaluator,
    checkpoints: CheckpointFolder,
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
            _save(stepper, checkpoints, metrics, step)


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


def _save(stepper: Stepper, checkpoints: CheckpointFolder, metrics: MetricsLog | None, step: int) -> None:
    started = time.perf_counter()
    path = checkpoints.save(step, stepper.model, stepper.optimizer, stepper.ranks)
    if metrics is not None:
        seconds = time.perf_counter() - started
        metrics.write("checkpoint", step=step, path=path.name, seconds=seconds)
        say(f"checkpoint {path.name} saved in {seconds:.1f} s")


def _refuse_other_run(folder: Path, made_of: dict[str, Any]) -> None:
    """Refuse a folder whose run was started with another recipe, even before its first checkpoint."""
    path = folder / "identity.json"
    if not path.exists():
        return
    try:
        found = differences(json.loads(path.read_text(encoding="utf-8")), made_of)
    except ValueError:
        raise CheckpointError(f"{path} is damaged; remove it if the run is yours to go on with.") from None
    if found:
        raise CheckpointError(
            f"{folder} holds a run of another recipe; what differs (run -> recipe):\n  "
            + "\n  ".join(found)
            + "\nChange the recipe back, give it another `name`, or remove the folder."
        )


def _write_run_folder(folder: Path, recipe: Recipe, made_of: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "recipe.yaml", dump_yaml(recipe).encode())
    write_whole(folder / "identity.json", json.dumps(made_of, indent=1, ensure_ascii=False).encode())


def _say_start(
    recipe: Recipe,
    stepper: Stepper,
    corpora: Corpora,
    padded: int,
    newest: Path | None,
    metrics: MetricsLog,
    step: int,
) -> None:
    """Say what is about to run, the arithmetic of its tokens included, and note the versions."""
    curriculum: Curriculum = stepper.curriculum
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
        f"  vocabulary {corpora.tokenizer.vocab_size:,} padded to {padded:,};"
        f" Python {python_platform.python_version()}, " + ", ".join(f"{n} {v}" for n, v in versions.items())
    )
    if newest is not None:
        say(f"going on from {newest.name}")
    metrics.write(
        "start", step=step, world_size=stepper.ranks.world_size, platform=machine.name, versions=versions
    )
