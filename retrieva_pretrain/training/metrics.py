"""What a run says of itself: a line an interval on the terminal, `metrics.jsonl`, TensorBoard, Weights & Biases.

Every line of `metrics.jsonl` is one JSON object with a `kind`: `start` (a process group began at `step`),
`train` (a step), `evaluation` (held-out text of one corpus) or `checkpoint`. A run that is resumed appends;
a step that was taken twice stands there twice, and `report.metrics.read_metrics` keeps the one that counts. A figure
that was not finite is null.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from retrieva_pretrain import platform
from retrieva_pretrain.training.interval import Interval, TimeLeft, Work, line
from retrieva_pretrain.training.saying import say
from retrieva_pretrain.training.step import StepResult
from retrieva_pretrain.training.weights_and_biases import WeightsAndBiases


class MetricsLog:
    """Writes the metrics of a run; one process of the run owns it."""

    def __init__(
        self,
        folder: Path,
        work: Work,
        step: int,
        *,
        tensorboard: bool,
        log_interval: int = 1,
        wandb: WeightsAndBiases | None = None,
    ) -> None:
        """Open the files in the run's folder, which is there; the run goes on after `step` steps."""
        self.work = work
        self.curriculum = work.curriculum
        self.log_interval = log_interval
        path = folder / "metrics.jsonl"
        _end_torn_line(path)
        self.file = path.open("a", encoding="utf-8")
        self.tensorboard = _tensorboard(folder / "tensorboard", step) if tensorboard else None
        self.wandb = wandb
        self._is_failing = False
        self.left = TimeLeft(work)
        self.interval = Interval()

    def write(self, kind: str, **fields: Any) -> None:
        """Append one line to `metrics.jsonl`; it is on its way to the disk when this returns."""
        content = json.dumps(_valid({"kind": kind, **fields}), ensure_ascii=False, allow_nan=False)
        try:
            self.file.write(content + "\n")
            self.file.flush()
        except (
            OSError
        ) as error:  # a full disk; what could not be written stays in the buffer for the next time
            if not self._is_failing:
                say(f"WARNING: {self.file.name} cannot be written: {error}. The training goes on")
            self._is_failing = True
        else:
            self._is_failing = False

    def has_evaluation(self, step: int) -> bool:
        """Whether held-out text was scored after so many steps, by this or an earlier start of the run."""
        with Path(self.file.name).open(encoding="utf-8") as lines:
            return any(
                line.startswith('{"kind": "evaluation"') and json.loads(line)["step"] == step
                for line in lines
            )

    def train_step(
        self,
        done: int,
        result: StepResult,
        seconds: float,
        data_wait: float,
        skipped: int,
        *,
        is_first: bool = False,
    ) -> None:
        """Record the step that brought the run to `done` finished steps; show a line where it is time.

        `seconds` is the whole step, `data_wait` the part of it in which this process waited for samples; `skipped`
        counts the steps of the run that were skipped; `is_first` tells the first step of this process or of a stage.
        """
        position = self.curriculum.at(done - 1)
        tokens = self.curriculum.consumed_tokens(done) - self.curriculum.consumed_tokens(done - 1)
        flops = self.work.of_step[position.index]
        machine = platform.current()
        self.left.note(seconds, flops, is_first=is_first)
        self.interval.add(result, seconds, data_wait, tokens, flops)
        tflops = self.work.tflops_per_gpu(flops, seconds)
        curves = {
            "loss": result.loss,
            "masked_accuracy": result.masked_accuracy,
            "learning_rate": result.learning_rate,
            "grad_norm": result.grad_norm,
            "tokens_per_second": tokens / seconds,
            "tokens_per_second_per_gpu": tokens / seconds / self.work.world_size,
            "tflops_per_gpu": tflops,
            "mfu": self.work.mfu(tflops),
            "memory_bytes": machine.memory(),
            "reserved_memory_bytes": machine.reserved_memory(),
            "data_wait_seconds": data_wait,
            "skipped_steps": skipped,
        }
        self.write(
            "train",
            step=done,
            stage=position.index,
            seq_length=position.seq_length,
            scored_tokens=result.scored_tokens,
            consumed_samples=self.curriculum.consumed_samples(done),
            consumed_tokens=self.curriculum.consumed_tokens(done),
            step_seconds=seconds,
            seconds_left=self.left.of_run(done),
            skipped=result.skipped,
            **curves,
        )
        self._draw(done, lambda name: f"train/{name}", {**curves, "seq_length": position.seq_length})
        # A stage's last line stands at its end: an average over two lengths would say nothing.
        ends_stage = done == self.curriculum.stage_steps(position.index)[1]
        if done % self.log_interval == 0 or ends_stage:
            say(
                line(
                    self.interval,
                    self.left,
                    result,
                    done,
                    skipped=skipped,
                    memory=machine.memory(),
                    reserved=machine.reserved_memory(),
                )
            )
            self.interval = Interval()

    def evaluation(self, done: int, corpus: str, seq_length: int, **scores: float) -> None:
        """Record one corpus's held-out scores after `done` steps."""
        self.write("evaluation", step=done, corpus=corpus, seq_length=seq_length, **scores)
        self._draw(done, lambda name: f"held_out_{name}/{corpus}", scores)

    def _draw(self, done: int, title: Callable[[str], str], figures: dict[str, Any]) -> None:
        """Add a point to each curve that `title` names; what is not known has none."""
        known = {title(name): value for name, value in figures.items() if value is not None}
        if self.tensorboard is not None:
            for name, value in known.items():
                self.tensorboard.add_scalar(name, value, done)
        if self.wandb is not None:
            self.wandb.log(done, known)

    def close(self) -> None:
        """Close the files."""
        with suppress(OSError):  # told already
            self.file.close()
        if self.tensorboard is not None:
            self.tensorboard.close()
        if self.wandb is not None:
            self.wandb.close()


def _valid(value: Any) -> Any:
    """Return a value as JSON can hold it: NaN and the infinities, which JSON has no word for, become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _valid(part) for key, part in value.items()}
    return [_valid(part) for part in value] if isinstance(value, (list, tuple)) else value


def _end_torn_line(path: Path) -> None:
    """End a line that a kill left without its newline, so that the next one stands alone."""
    if path.exists() and path.stat().st_size:
        with path.open("rb+") as file:
            file.seek(-1, 2)
            if file.read(1) != b"\n":
                file.write(b"\n")


def _tensorboard(folder: Path, step: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    # Points of a killed run past the checkpoint are hidden: those steps are taken again.
    return SummaryWriter(str(folder), purge_step=step + 1)
