"""A training run from its recipe: set up, go on from the newest checkpoint, train to the end.

torchrun --nproc-per-node 4 -m retrieva_pretrain train recipes/retrievabert-1.3b.yaml
"""

from __future__ import annotations

import platform as python_platform
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from retrieva_pretrain import platform
from retrieva_pretrain.data.batches import HeldOutSamples, TrainingSamples
from retrieva_pretrain.data.indexing import ProgressLines, ensure_indexes
from retrieva_pretrain.exit_codes import DONE, REQUEUE
from retrieva_pretrain.model.build import build_model, wrap_model
from retrieva_pretrain.model.kernels import kernel_notes
from retrieva_pretrain.model.optimizer import build_optimizer
from retrieva_pretrain.optional_packages import optional_packages
from retrieva_pretrain.outcome import forget_outcome, write_outcome
from retrieva_pretrain.planning.flops import training_flops
from retrieva_pretrain.planning.peaks import dense_bf16_tflops
from retrieva_pretrain.training import distributed
from retrieva_pretrain.training.checkpoint import Checkpointer
from retrieva_pretrain.training.distributed import Ranks
from retrieva_pretrain.training.evaluation import Evaluator
from retrieva_pretrain.training.interval import Work
from retrieva_pretrain.training.loop import Loop
from retrieva_pretrain.training.metrics import MetricsLog
from retrieva_pretrain.training.prepare import PreparedRun
from retrieva_pretrain.training.profiled_steps import ProfiledSteps
from retrieva_pretrain.training.profiling import StepProfiler
from retrieva_pretrain.training.resume import resume
from retrieva_pretrain.training.run_lock import is_first_process
from retrieva_pretrain.training.saying import say
from retrieva_pretrain.training.step import Stepper
from retrieva_pretrain.training.stopping import Stopped, StopRequests
from retrieva_pretrain.training.watchdog import Watchdog
from retrieva_pretrain.training.weights_and_biases import WeightsAndBiases

_CLOSE_SECONDS = 5.0


def train(
    run: PreparedRun, *, exit_before: float | None = None, profiled: ProfiledSteps | None = None
) -> int:
    """Train to the end of the curriculum, from the run's newest checkpoint where there is one.

    `exit_before`: seconds since this process was started, before which the run must have saved and left.
    `profiled`: the steps of which a trace is written.

    Returns the exit code: `DONE`, or `REQUEUE` where the run was asked to stop, has saved and can be started again.
    """
    recipe, folder = run.recipe, run.folder.path
    before = forget_outcome(folder) if is_first_process() else None
    stop_requests = StopRequests(exit_before)
    ranks = distributed.initialize(recipe)
    watchdog = Watchdog(
        recipe.faults,
        ranks.rank,
        ranks.world_size,
        on_hang=lambda message: write_outcome(folder, "hung", step=None, message=message),
    )
    try:
        _train(run, ranks, stop_requests, watchdog, profiled, before)
        if ranks.is_first:
            write_outcome(folder, "done", step=recipe.total_steps, message="the run is complete")
        return DONE
    except Stopped as stopped:
        if ranks.is_first:
            write_outcome(folder, "stopped", step=stopped.step, message=str(stopped))
            say(f"{stopped}; saved. The same command goes on")
        return REQUEUE
    except Exception as error:
        # Before the others notice that this process leaves, and say that instead.
        distributed.tell_once(error)
        write_outcome(folder, "failed", step=None, message=f"{type(error).__name__}: {error}")
        watchdog.enter("end", 0)
        distributed.leave_after_failure()
        raise
    finally:
        watchdog.enter("end", 0)
        distributed.shut_down()
        watchdog.close()


def _train(
    run: PreparedRun,
    ranks: Ranks,
    stop_requests: StopRequests,
    watchdog: Watchdog,
    profiled: ProfiledSteps | None,
    before: dict[str, Any] | None,
) -> None:
    """Build everything, go on from the newest checkpoint and take the steps; `before` tells how the last start ended."""
    recipe = run.recipe
    # The first process looks, so that all agree. Where there are checkpoints one is loaded, or the run is refused.
    begins = ranks.is_first and run.initial is None and not run.folder.checkpoints_by_age()
    model = wrap_model(
        recipe, build_model(recipe, run.padded_vocab_size, draw_weights=distributed.from_first(begins))
    )
    optimizer = build_optimizer(recipe, model)
    resumed = resume(run.folder, model, optimizer, ranks, run.initial)
    step = resumed.step
    distributed.first_then_others(lambda: _ensure_indexes(run, step, ranks))
    stepper = Stepper(
        recipe,
        model,
        optimizer,
        TrainingSamples(recipe, run.corpora),
        run.layouts,
        ranks,
        run=run.folder.path,
        stop_requests=stop_requests,
        watchdog=watchdog,
    )
    stepper.load_state(resumed.state)
    evaluator = Evaluator(recipe, HeldOutSamples(recipe, run.corpora), ranks)
    metrics = None
    if ranks.is_first:
        run.folder.write_recipe(recipe, run.identity)
        metrics = MetricsLog(
            run.folder.path,
            _work(run, stepper),
            step,
            tensorboard=recipe.logging.tensorboard,
            log_interval=recipe.logging.log_interval,
            wandb=WeightsAndBiases.open(recipe, run.folder.path) if recipe.logging.wandb_project else None,
        )
        _say_start(run, stepper, resumed.checkpoint)
        metrics.write(
            "start",
            step=step,
            time=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            world_size=ranks.world_size,
            platform=platform.current().name,
            versions=_versions(),
            previous_exit=before,
        )
    checkpointer = Checkpointer(
        run.folder,
        run.identity,
        recipe.checkpoint,
        ranks,
        for_ever={stepper.curriculum.stage_steps(stage)[1] for stage in range(len(recipe.curriculum))},
        metrics=metrics,
    )
    profiler = StepProfiler(run.folder.path, profiled) if profiled is not None and ranks.is_first else None
    try:
        Loop(stepper, evaluator, checkpointer, metrics, profiler).run(step)
    finally:
        # Not for ever: its thread may sit in a file system that hangs, and the other processes wait for this one to leave.
        stepper.prefetch.close(_CLOSE_SECONDS)
        if metrics is not None:
            metrics.close()


def _work(run: PreparedRun, stepper: Stepper) -> Work:
    """Return what the run computes, and on what."""
    peak = run.recipe.logging.peak_tflops_per_gpu or dense_bf16_tflops(platform.current().device_name())
    flops = training_flops(run.recipe, run.padded_vocab_size)
    return Work(stepper.curriculum, flops, stepper.ranks.world_size, peak)


def _ensure_indexes(run: PreparedRun, step: int, ranks: distributed.Ranks) -> None:
    """See to the index files of large corpora; whoever makes one says so."""
    watch = ProgressLines(say, 15.0) if ranks.is_first else None
    for indexed in ensure_indexes(run.recipe, run.corpora, step, watch=watch):
        if indexed.built:
            say(str(indexed))


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("torch", "megatron-core", "sentencepiece", "numpy")}


def _say_start(run: PreparedRun, stepper: Stepper, newest: Path | None) -> None:
    """Say what is about to run, the arithmetic of its tokens and the versions included."""
    recipe, curriculum = run.recipe, stepper.curriculum
    machine = platform.current()
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
    for line in [*kernel_notes(recipe), *_data_lines(run, stepper)]:
        say(line)
    say(
        f"  vocabulary {run.corpora.tokenizer.vocab_size:,} padded to {run.padded_vocab_size:,};"
        f" Python {python_platform.python_version()}, "
        + ", ".join(f"{n} {v}" for n, v in _versions().items())
    )
    packages = optional_packages()
    say(
        "  "
        + ", ".join(f"{name} {'found' if found else 'not installed'}" for name, found in packages.items())
    )
    if newest is not None:
        say(f"going on from {newest.name}")
    elif run.initial is not None:
        say(f"beginning with the weights of {run.initial}")


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
