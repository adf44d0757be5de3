"""`retrieva train --dry-run`: everything is built and one step of every stage taken, on random tokens.

Shows whether the model, its optimizer and the largest micro-batch of every stage fit the devices, before there are
corpora. Nothing is read but the tokenizer, and nothing is written into the run's folder.
"""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

from retrieva_pretrain import platform
from retrieva_pretrain.curriculum.stages import Curriculum
from retrieva_pretrain.data.batches import TrainingSamples
from retrieva_pretrain.data.fake_samples import FakeSamples
from retrieva_pretrain.model.build import build_model, wrap_model
from retrieva_pretrain.model.optimizer import build_optimizer
from retrieva_pretrain.planning.parameters import count_parameters
from retrieva_pretrain.recipe.layout import padded_vocab_size, stage_layouts
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.training import distributed
from retrieva_pretrain.training.distributed import Ranks
from retrieva_pretrain.training.saying import say
from retrieva_pretrain.training.step import Stepper
from retrieva_pretrain.training.stopping import StopRequests
from retrieva_pretrain.training.watchdog import Watchdog


def dry_run(recipe: Recipe, vocab_size: int) -> None:
    """Build everything of a recipe whose tokenizer has `vocab_size` pieces, and take one step of every stage."""
    stop_requests = StopRequests()
    ranks = distributed.initialize(recipe)
    watchdog = Watchdog(recipe.faults, ranks.rank, ranks.world_size, on_hang=lambda message: None)
    # A step that is skipped is written down in the run's folder: here in one that does not stay.
    with TemporaryDirectory(prefix="retrieva-dry-run-") as folder:
        try:
            _dry_run(recipe, vocab_size, ranks, Path(folder), stop_requests, watchdog)
        except Exception as error:
            distributed.tell_once(error)
            watchdog.enter("end", 0)
            distributed.leave_after_failure()
            raise
        finally:
            watchdog.enter("end", 0)
            distributed.shut_down()
            watchdog.close()


def _dry_run(
    recipe: Recipe,
    vocab_size: int,
    ranks: Ranks,
    folder: Path,
    stop_requests: StopRequests,
    watchdog: Watchdog,
) -> None:
    padded = padded_vocab_size(vocab_size, recipe.tokenizer.make_vocab_size_divisible_by)
    started = time.perf_counter()
    module = build_model(recipe, padded)
    mine = sum(parameter.numel() for parameter in module.parameters())
    model = wrap_model(recipe, module)
    stepper = Stepper(
        recipe,
        model,
        build_optimizer(recipe, model),
        # Of the same shape where a step looks; nothing but random tokens behind it.
        cast(TrainingSamples, FakeSamples(recipe, vocab_size)),
        stage_layouts(recipe, ranks.world_size),
        ranks,
        run=folder,
        stop_requests=stop_requests,
        watchdog=watchdog,
    )
    machine = platform.current()
    if ranks.is_first:
        say(f"dry run of {recipe.name}: random tokens, nothing is kept")
        say(
            f"  {count_parameters(recipe.model, padded).total:,} parameters, {mine:,} of them on this process; built"
            f" on {ranks.world_size} {machine.name} processes (data parallel {ranks.data_parallel_size}) in"
            f" {time.perf_counter() - started:.1f} s"
        )
    curriculum = Curriculum(recipe)
    for index, (stage, layout) in enumerate(zip(recipe.curriculum, stepper.layouts, strict=True)):
        machine.forget_peak_memory()
        started = time.perf_counter()
        result = stepper.train_step(curriculum.stage_steps(index)[0])
        stepper.prefetch.close()
        machine.synchronize()
        seconds = time.perf_counter() - started
        most = distributed.largest_of_processes(machine.memory())
        if ranks.is_first:
            say(
                f"  stage {index + 1}: length {stage.seq_length}, {layout.num_microbatches} micro-batches of"
                f" {layout.micro_batch_size} a process: one step {seconds:.2f} s, memory {most / 2**30:.2f} GiB"
                f" (the process with the most), loss {result.loss:.3f}"
            )
    if ranks.is_first:
        say("dry run done; a first step is slower than those after it")
