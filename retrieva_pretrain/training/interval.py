"""The line that a run prints every `logging.log_interval` steps: averages since the line before, and the time left.

In 160 columns at the size of the 1.3 B run, which is why its words are short; `docs/monitoring.md` explains them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from retrieva_pretrain.curriculum.stages import Curriculum
from retrieva_pretrain.durations import format_duration
from retrieva_pretrain.training.step import StepResult

_SMOOTHING = 0.1


class Work:
    """How much a run computes, in floating-point operations of the model, and on how many devices."""

    def __init__(
        self,
        curriculum: Curriculum,
        flops_per_sample: Sequence[int],
        world_size: int,
        peak_tflops_per_gpu: float | None,
    ) -> None:
        """Take each stage's operations a sample (`planning.flops.training_flops`), and the device's peak if known."""
        self.curriculum = curriculum
        self.world_size = world_size
        self.peak_tflops_per_gpu = peak_tflops_per_gpu
        size = curriculum.recipe.global_batch_size
        self.of_step = [size * flops for flops in flops_per_sample]
        """Operations of one step of each stage, over all devices."""

    def left_in_stage(self, done: int) -> int:
        """Return the operations from `done` finished steps to the end of the stage of the last of them."""
        index = self.curriculum.at(done - 1).index
        return (self.curriculum.stage_steps(index)[1] - done) * self.of_step[index]

    def left(self, done: int) -> int:
        """Return the operations from `done` finished steps to the end of the run."""
        after = range(self.curriculum.at(done - 1).index + 1, len(self.of_step))
        later = sum(self.curriculum.recipe.curriculum[i].train_iters * self.of_step[i] for i in after)
        return self.left_in_stage(done) + later

    def tflops_per_gpu(self, flops: int, seconds: float) -> float:
        """Return the model TFLOP/s of each device."""
        return flops / seconds / self.world_size / 1e12

    def mfu(self, tflops_per_gpu: float) -> float | None:
        """Return the share of the device's dense BF16 peak; None where that is not known."""
        return None if self.peak_tflops_per_gpu is None else tflops_per_gpu / self.peak_tflops_per_gpu


@dataclass
class Interval:
    """Sums over the steps since the last line. Steps whose loss was not a number count in the times alone."""

    steps: int = 0
    seconds: float = 0.0
    data_wait: float = 0.0
    tokens: int = 0
    flops: int = 0
    scored_tokens: int = 0
    loss: float = 0.0
    correct: float = 0.0
    norms: int = 0
    grad_norm: float = 0.0

    def add(self, result: StepResult, seconds: float, data_wait: float, tokens: int, flops: int) -> None:
        """Count one step in."""
        self.steps += 1
        self.seconds += seconds
        self.data_wait += data_wait
        self.tokens += tokens
        self.flops += flops
        if math.isfinite(result.loss):
            self.scored_tokens += result.scored_tokens
            self.loss += result.loss * result.scored_tokens
            self.correct += result.masked_accuracy * result.scored_tokens
        if math.isfinite(result.grad_norm):
            self.norms += 1
            self.grad_norm += result.grad_norm


class TimeLeft:
    """The pace of a run in seconds an operation, smoothed over some ten steps, and what follows from it."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self._pace = 0.0
        self._steps = 0
        """Those that the pace is made of."""

    def note(self, seconds: float, flops: int, *, is_first: bool = False) -> None:
        """Take in one step; `is_first`: the first one of this process or of a stage."""
        pace = seconds / flops
        if is_first:
            # It allocates and compiles, and says nothing of the others: good for as long as there is no other.
            self._pace = self._pace if self._steps else pace
            return
        self._steps += 1
        self._pace = pace if self._steps == 1 else (1 - _SMOOTHING) * self._pace + _SMOOTHING * pace

    def of_stage(self, done: int) -> float:
        """Return the seconds to the end of the stage; evaluations and checkpoints come on top."""
        return self.work.left_in_stage(done) * self._pace

    def of_run(self, done: int) -> float:
        """Return the seconds to the end of the run: a token of a later, longer stage takes more of them."""
        return self.work.left(done) * self._pace


def line(
    interval: Interval,
    left: TimeLeft,
    result: StepResult,
    done: int,
    *,
    skipped: int,
    memory: int,
    reserved: int | None,
) -> str:
    """Return the line after `done` steps, the last of which gave `result`.

    `memory` is what was allocated, in bytes; `reserved` what the allocator held, None where that is not known.
    """
    work = left.work
    position = work.curriculum.at(done - 1)
    start, end = work.curriculum.stage_steps(position.index)
    width = len(str(work.curriculum.total_steps))
    tokens, tflops = interval.tokens / interval.seconds, work.tflops_per_gpu(interval.flops, interval.seconds)
    mfu = work.mfu(tflops)
    scored, norms = interval.scored_tokens or math.nan, interval.norms or math.nan
    groups = [
        f"step {done:>{width}}",
        f"stage {position.index + 1}/{len(work.of_step)} L{position.seq_length}"
        f" {100 * (done - start) // (end - start):>2}%",
        f"loss {interval.loss / scored:.3f} acc {interval.correct / scored:.1%} lr {result.learning_rate:.2e}"
        f" norm {interval.grad_norm / norms:.3g}" + (f" skipped {skipped}" if skipped else ""),
        f"{_short(tokens)} tok/s {_short(tokens / work.world_size)}/GPU {tflops:.3g} TF/s"
        + (f" MFU {mfu:.1%}" if mfu is not None else ""),
        f"{memory / 2**30:.1f}{f'/{reserved / 2**30:.1f}' if reserved is not None else ''}G"
        f" wait {interval.data_wait / interval.seconds:.0%}",
        f"left {format_duration(left.of_stage(done))}/{format_duration(left.of_run(done))}",
    ]
    return "  ".join(groups)


def _short(number: float) -> str:
    """1234567 -> 1.23M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            scaled = number / size
            return f"{scaled:.{max(0, 2 - int(math.log10(scaled)))}f}{unit}"
    return f"{number:.0f}"
