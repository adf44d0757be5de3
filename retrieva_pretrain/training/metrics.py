"""What a run says of itself: a line a step on the terminal, `metrics.jsonl`, TensorBoard.

Every line of `metrics.jsonl` is one JSON object with a `kind`: `start` (a process group began at `step`),
`train` (a step), `evaluation` (held-out text of one corpus) or `checkpoint`. A run that is resumed appends;
a step that was taken twice stands there twice, and `report.metrics.read_metrics` keeps the one that counts.
"""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

from retrieva_pretrain.curriculum.stages import Curriculum
from retrieva_pretrain.training.saying import say
from retrieva_pretrain.training.step import StepResult


class MetricsLog:
    """Writes the metrics of a run; one process of the run owns it."""

    def __init__(self, folder: Path, curriculum: Curriculum, step: int, *, tensorboard: bool) -> None:
        self.curriculum = curriculum
        path = folder / "metrics.jsonl"
        _end_torn_line(path)
        self.file = path.open("a", encoding="utf-8")
        self.tensorboard = _tensorboard(folder / "tensorboard", step) if tensorboard else None
        self.seconds_per_token = 0.0

    def write(self, kind: str, **fields: Any) -> None:
        """Append one line to `metrics.jsonl`; it is on its way to the disk when this returns."""
        self.file.write(json.dumps({"kind": kind, **fields}, ensure_ascii=False) + "\n")
        self.file.flush()

    def train_step(self, done: int, result: StepResult, seconds: float, *, show: bool) -> None:
        """Record the step that brought the run to `done` finished steps, and show its line."""
        position = self.curriculum.at(done - 1)
        tokens = self.curriculum.consumed_tokens(done) - self.curriculum.consumed_tokens(done - 1)
        rate = tokens / seconds
        # Smoothed, so that the time left does not jump with every line.
        fresh = seconds / tokens
        self.seconds_per_token = (
            fresh if not self.seconds_per_token else 0.9 * self.seconds_per_token + 0.1 * fresh
        )
        self.write(
            "train",
            step=done,
            stage=position.index,
            seq_length=position.seq_length,
            loss=result.loss,
            masked_accuracy=result.masked_accuracy,
            learning_rate=result.learning_rate,
            grad_norm=result.grad_norm,
            scored_tokens=result.scored_tokens,
            consumed_samples=self.curriculum.consumed_samples(done),
            consumed_tokens=self.curriculum.consumed_tokens(done),
            tokens_per_second=rate,
            step_seconds=seconds,
            skipped=result.skipped,
        )
        if self.tensorboard is not None:
            for name in ("loss", "masked_accuracy", "learning_rate", "grad_norm"):
                self.tensorboard.add_scalar(f"train/{name}", getattr(result, name), done)
            self.tensorboard.add_scalar("train/tokens_per_second", rate, done)
            self.tensorboard.add_scalar("train/seq_length", position.seq_length, done)
        if show:
            say(self._line(done, result, rate))

    def evaluation(self, done: int, corpus: str, seq_length: int, **scores: float) -> None:
        """Record one corpus's held-out scores after `done` steps."""
        self.write("evaluation", step=done, corpus=corpus, seq_length=seq_length, **scores)
        if self.tensorboard is not None:
            for name, value in scores.items():
                self.tensorboard.add_scalar(f"held_out_{name}/{corpus}", value, done)

    def close(self) -> None:
        """Close the files."""
        self.file.close()
        if self.tensorboard is not None:
            self.tensorboard.close()

    def _line(self, done: int, result: StepResult, rate: float) -> str:
        position = self.curriculum.at(done - 1)
        start, end = self.curriculum.stage_steps(position.index)
        left = (self.curriculum.total_tokens - self.curriculum.consumed_tokens(done)) * self.seconds_per_token
        total = self.curriculum.total_steps
        return (
            f"step {done:>{len(str(total))}}/{total}"
            f" | stage {position.index + 1}/{len(self.curriculum.recipe.curriculum)}"
            f" (length {position.seq_length}) {done - start}/{end - start}"
            f" | loss {result.loss:7.4f} | accuracy {result.masked_accuracy:6.2%} | lr {result.learning_rate:.3e}"
            f" | grad norm {result.grad_norm:.3f} | {rate:,.0f} tokens/s | left {timedelta(seconds=round(left))}"
        )


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
