"""How fast the real model of a recipe trains: whole steps of each stage on random tokens, by the clock.

One copy of the model is built as training builds it and takes training's own steps (`training/step.py`). A step of many
micro-batches less one of few leaves what a micro-batch takes, forward and backward; what is over is what a step takes
besides: the gradient's norm, clipping, the optimizer. Nothing is read but the tokenizer's size.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import torch
from megatron.core import parallel_state

from retrieva_pretrain import platform
from retrieva_pretrain.data.batches import TrainingSamples
from retrieva_pretrain.data.fake_samples import FakeSamples
from retrieva_pretrain.errors import RecipeError
from retrieva_pretrain.model.build import build_model, wrap_model
from retrieva_pretrain.model.optimizer import build_optimizer
from retrieva_pretrain.planning.flops import count_flops
from retrieva_pretrain.recipe.layout import (
    StageLayout,
    model_parallel_size,
    padded_vocab_size,
    scored_slots,
    stage_layouts,
)
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.training.distributed import Ranks, largest_of_processes
from retrieva_pretrain.training.step import Stepper
from retrieva_pretrain.training.stopping import StopRequests
from retrieva_pretrain.training.watchdog import Watchdog

FEW = 2
"""Micro-batches of the short steps."""

_MORE = (2, 8)
"""Micro-batches that the long step has more, at least and at most: as many as take about `_SECONDS`."""

_SECONDS = 2.0
_STEPS = 1_000_000


@dataclass(frozen=True)
class StageSpeed:
    """What one stage takes on the processes that hold one copy of the model; data parallel 1."""

    seq_length: int
    micro_batch_size: int
    """Samples of one forward pass."""

    micro_batch_seconds: float
    """Forward and backward of one micro-batch."""

    update_seconds: float
    """What a step takes besides its micro-batches: norm, clipping, the whole optimizer, the host's part."""

    tokens_per_second: float
    """Of one GPU, in micro-batches alone."""

    tflops: float
    """Model operations of one GPU in 10^12 a second; what recomputation repeats is not counted."""

    peak_memory: int
    """Most bytes allocated on one device, with weights, gradients and the whole optimizer state of this copy. On the CPU
    what the process holds."""

    first_seconds: float
    """The first step, which allocates and compiles."""

    loss: float


class StageBench:
    """The model of a recipe and its optimizer on this process's device, and steps of any length and size."""

    def __init__(self, recipe: Recipe, vocab_size: int, ranks: Ranks, stop_requests: StopRequests) -> None:
        """Build everything; weights are drawn on the device, which takes seconds where the recipe's own take a minute.

        Args:
            recipe: of any layout; `distributed.initialize` has divided the processes for it.
            vocab_size: pieces of the tokenizer.
            ranks: what `distributed.initialize` has returned.
            stop_requests: one in a process; kept by the caller, since it takes over signals.
        """
        self.recipe = recipe
        self.vocab_size = vocab_size
        self.padded_vocab_size = padded_vocab_size(vocab_size, recipe.tokenizer.make_vocab_size_divisible_by)
        self._ranks = ranks
        self._stop_requests = stop_requests
        self._folder = TemporaryDirectory(prefix="retrieva-stage-speed-")
        self._watchdog = Watchdog(recipe.faults, ranks.rank, ranks.world_size, on_hang=lambda message: None)
        started = time.perf_counter()
        self.model = wrap_model(recipe, build_model(recipe, self.padded_vocab_size, draw_weights=False))
        _draw_on_device(self.model, recipe.model.init_method_std, recipe.seed)
        self.optimizer = build_optimizer(recipe, self.model)
        platform.current().synchronize()
        self.build_seconds = time.perf_counter() - started

    @property
    def is_divided(self) -> bool:
        """Whether several processes hold the copy of the model together."""
        return model_parallel_size(self.recipe) > 1

    def stepper(self, index: int, micro_batch_size: int, num_microbatches: int) -> Stepper:
        """Return what takes steps of one stage of the recipe: so many micro-batches of so many samples, from step 0 on.

        Close its `prefetch` when done.
        """
        recipe = _of_one_stage(self.recipe, index, micro_batch_size * num_microbatches)
        return Stepper(
            recipe,
            self.model,
            self.optimizer,
            cast(TrainingSamples, FakeSamples(recipe, self.vocab_size)),
            (StageLayout(1, micro_batch_size, num_microbatches),),
            self._ranks,
            run=Path(self._folder.name),
            stop_requests=self._stop_requests,
            watchdog=self._watchdog,
        )

    def time(self, index: int, micro_batch_size: int) -> StageSpeed:
        """Time a stage at a micro-batch; all processes of the copy together.

        Raises:
            torch.OutOfMemoryError: the device does not hold it; `recover` makes the bench usable again.
        """
        machine = platform.current()
        short = self.stepper(index, micro_batch_size, FEW)
        try:
            first, _ = self._step(short, 0)
            machine.forget_peak_memory()
            shorts = [self._step(short, step) for step in (1, 2)]
        finally:
            short.prefetch.close()
        few, loss = min(seconds for seconds, _ in shorts), shorts[-1][1]
        # All processes must take the same number of micro-batches.
        more = min(max(round(_SECONDS * FEW / largest_of_processes(few)), _MORE[0]), _MORE[1])
        long = self.stepper(index, micro_batch_size, FEW + more)
        try:
            many = min(self._step(long, step)[0] for step in (0, 1))
        finally:
            long.prefetch.close()
        each, evenly = (many - few) / more, many / (FEW + more)
        if (
            each < evenly / 2
        ):  # a busy machine takes less for more: then all of the step counts as micro-batches
            each = evenly
        length = self.recipe.curriculum[index].seq_length
        gpus = model_parallel_size(self.recipe)
        return StageSpeed(
            seq_length=length,
            micro_batch_size=micro_batch_size,
            micro_batch_seconds=each,
            update_seconds=max(few - FEW * each, 0.0),
            tokens_per_second=length * micro_batch_size / each / gpus,
            tflops=self._flops(index) * micro_batch_size / each / gpus / 1e12,
            peak_memory=int(largest_of_processes(machine.memory())),
            first_seconds=first,
            loss=loss,
        )

    def recover(self) -> None:
        """Drop what a failed step has left."""
        for parameter in self.model.parameters():
            parameter.grad = None
        self.model.zero_grad_buffer()
        parallel_state.get_global_memory_buffer().buffer.clear()
        gc.collect()
        platform.current().release_memory()

    def close(self) -> None:
        """Give the device's memory back, so that another bench can be built."""
        self.recover()
        self._watchdog.close()
        del self.model, self.optimizer
        self._folder.cleanup()
        gc.collect()
        platform.current().release_memory()

    def _step(self, stepper: Stepper, step: int) -> tuple[float, float]:
        """Take one step; return its seconds and its loss."""
        machine = platform.current()
        machine.synchronize()
        started = time.perf_counter()
        result = stepper.train_step(step)
        machine.synchronize()
        return time.perf_counter() - started, result.loss

    def _flops(self, index: int) -> int:
        length = self.recipe.curriculum[index].seq_length
        slots = scored_slots(self.recipe.masking_probability(index), length)
        return count_flops(self.recipe.model, self.padded_vocab_size, length, slots).training


def planned_micro_batches(recipe: Recipe, gpus: int) -> list[int]:
    """Return every stage's micro-batch on so many GPUs, or on one copy of the model where they do not divide."""
    try:
        layouts = stage_layouts(recipe, gpus)
    except RecipeError:
        layouts = stage_layouts(recipe, model_parallel_size(recipe))
    return [layout.micro_batch_size for layout in layouts]


def time_stage(
    bench: StageBench, index: int, micro_batch_size: int, fits: Callable[[int], bool]
) -> tuple[StageSpeed, list[int]]:
    """Time a stage at the largest micro-batch that the device holds, halving it until it does.

    Args:
        bench: the model.
        index: number of the stage.
        micro_batch_size: the first to try.
        fits: whether a micro-batch is worth trying: on a CPU one that is too large ends the process.

    Returns:
        what it takes, and the micro-batches that did not fit.

    Raises:
        RecipeError: not even one sample fits.
        torch.OutOfMemoryError: one process of a divided model ran out of memory: the others wait for it and cannot go on.
    """
    too_large: list[int] = []
    for size in _halved(micro_batch_size):
        if not fits(size):
            too_large.append(size)
            continue
        try:
            return bench.time(index, size), too_large
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or bench.is_divided:
                raise
            too_large.append(size)
        # Outside the handler: the exception's frames hold the tensors of the step that failed.
        bench.recover()
    raise RecipeError(
        f"stage {index}: not even one sample of {bench.recipe.curriculum[index].seq_length} fits"
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory did not suffice."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def _halved(size: int) -> Iterator[int]:
    while size:
        yield size
        size //= 2


def _of_one_stage(recipe: Recipe, index: int, global_batch_size: int) -> Recipe:
    stage = recipe.curriculum[index].model_copy(update={"train_iters": _STEPS})
    return recipe.model_copy(update={"curriculum": [stage], "global_batch_size": global_batch_size})


@torch.no_grad()
def _draw_on_device(model: torch.nn.Module, std: float, seed: int) -> None:
    """Draw every matrix from a normal distribution where it lies; biases become 0, norms stay as they are built."""
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.dim() >= 2:
            parameter.normal_(0.0, std)
        elif name.endswith("bias"):
            parameter.zero_()
