"""A run in one table: its stages, and its masked-token accuracy on held-out text before and after."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from retrieva_pretrain.report.metrics import read_metrics


@dataclass(frozen=True)
class StageSummary:
    """What one stage of a run did."""

    stage: int
    seq_length: int
    steps: int
    tokens: int
    tokens_per_second: float
    """Median over the stage's steps."""

    first_loss: float
    """The first that was a number; skipped steps may have had none."""

    last_loss: float


@dataclass(frozen=True)
class HeldOutSummary:
    """Masked-token accuracy of one corpus's held-out text, at the run's longest length."""

    corpus: str
    before: float
    after: float
    most_frequent: float
    """What always guessing the most frequent masked token would score."""


@dataclass(frozen=True)
class RunSummary:
    """The figures of a run."""

    stages: list[StageSummary]
    held_out: list[HeldOutSummary]
    """One row a corpus; the last row is all of them together, weighted by scored tokens."""

    starts: int
    """How often training was started: once more than it was resumed."""


def summarise(folder: Path, last_step: int | None = None) -> RunSummary:
    """Read the figures of the run in a folder; those up to `last_step` where it is given."""
    records = read_metrics(folder / "metrics.jsonl")
    if last_step is not None:
        records = [r for r in records if r["step"] <= last_step]
    steps = [r for r in records if r["kind"] == "train"]
    stages = [_stage(stage, steps) for stage in sorted({r["stage"] for r in steps})]
    return RunSummary(
        stages=stages,
        held_out=_held_out([r for r in records if r["kind"] == "evaluation"]),
        starts=sum(r["kind"] == "start" for r in records),
    )


def render(summary: RunSummary) -> RenderableType:
    """Lay the figures out for a terminal."""
    stages = Table(title="Stages", title_justify="left")
    for name in ("stage", "length", "steps", "tokens", "tokens/s", "first loss", "last loss"):
        stages.add_column(name, justify="right")
    for row in summary.stages:
        stages.add_row(
            str(row.stage + 1),
            str(row.seq_length),
            f"{row.steps:,}",
            f"{row.tokens:,}",
            f"{row.tokens_per_second:,.0f}",
            f"{row.first_loss:.3f}",
            f"{row.last_loss:.3f}",
        )
    held_out = Table(title="Masked-token accuracy on held-out text", title_justify="left")
    held_out.add_column("corpus")
    for name in ("most frequent token", "before", "after"):
        held_out.add_column(name, justify="right")
    for entry in summary.held_out:
        if entry is summary.held_out[-1]:
            held_out.add_section()
        held_out.add_row(
            entry.corpus, f"{entry.most_frequent:.2%}", f"{entry.before:.2%}", f"{entry.after:.2%}"
        )
    return Group(stages, Text(), held_out)


def _stage(stage: int, steps: list[dict[str, Any]]) -> StageSummary:
    mine = [r for r in steps if r["stage"] == stage]
    before = max((r["consumed_tokens"] for r in steps if r["stage"] < stage), default=0)
    losses = [r["loss"] for r in mine if math.isfinite(r["loss"])] or [math.nan]
    return StageSummary(
        stage=stage,
        seq_length=mine[0]["seq_length"],
        steps=len(mine),
        tokens=mine[-1]["consumed_tokens"] - before,
        tokens_per_second=median(r["tokens_per_second"] for r in mine),
        first_loss=losses[0],
        last_loss=losses[-1],
    )


def _held_out(evaluations: list[dict[str, Any]]) -> list[HeldOutSummary]:
    if not evaluations:
        return []
    longest = max(r["seq_length"] for r in evaluations)
    chosen = [r for r in evaluations if r["seq_length"] == longest]
    ends = {min(r["step"] for r in chosen): "before", max(r["step"] for r in chosen): "after"}
    scores = {(r["corpus"], ends[r["step"]]): r for r in chosen if r["step"] in ends}
    corpora = list(dict.fromkeys(corpus for corpus, _ in scores))

    def together(when: str, field: str) -> float:
        rows = [scores[corpus, when] for corpus in corpora]
        return float(sum(r[field] * r["scored_tokens"] for r in rows) / sum(r["scored_tokens"] for r in rows))

    rows = [
        HeldOutSummary(
            corpus,
            before=scores[corpus, "before"]["masked_accuracy"],
            after=scores[corpus, "after"]["masked_accuracy"],
            most_frequent=scores[corpus, "after"]["most_frequent_accuracy"],
        )
        for corpus in corpora
    ]
    total = HeldOutSummary(
        "all",
        before=together("before", "masked_accuracy"),
        after=together("after", "masked_accuracy"),
        most_frequent=together("after", "most_frequent_accuracy"),
    )
    return [*rows, total]
