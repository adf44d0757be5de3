"""Reading a run's figures back."""

from __future__ import annotations

import json
import math
from pathlib import Path

from rich.console import Console

from retrieva_pretrain.report.metrics import read_metrics
from retrieva_pretrain.report.summary import render, summarise


def train_line(step: int, stage: int, loss: float) -> str:
    return json.dumps(
        {
            "kind": "train",
            "step": step,
            "stage": stage,
            "seq_length": 16 * (stage + 1),
            "loss": loss,
            "learning_rate": 0.1,
            "consumed_tokens": 100 * step,
            "tokens_per_second": 10.0 * step,
        }
    )


def evaluation_line(step: int, corpus: str, accuracy: float, scored: int) -> str:
    return json.dumps(
        {
            "kind": "evaluation",
            "step": step,
            "corpus": corpus,
            "seq_length": 32,
            "loss": 1.0,
            "masked_accuracy": accuracy,
            "most_frequent_accuracy": 0.1,
            "scored_tokens": scored,
        }
    )


def write(folder: Path, *lines: str) -> Path:
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "metrics.jsonl"


def test_a_step_taken_twice_counts_as_it_was_taken_last_and_a_torn_line_is_passed_over(
    tmp_path: Path,
) -> None:
    path = write(
        tmp_path,
        '{"kind": "start", "step": 0}',
        train_line(1, 0, 5.0),
        train_line(2, 0, 4.0),
        train_line(3, 0, 3.0)[:20],
        '{"kind": "start", "step": 1}',
        train_line(2, 0, 4.5),
        train_line(3, 1, 3.5),
    )
    records = read_metrics(path)
    assert [(r["step"], r["loss"]) for r in records if r["kind"] == "train"] == [(1, 5.0), (2, 4.5), (3, 3.5)]
    assert sum(r["kind"] == "start" for r in records) == 2


def test_the_summary_tells_each_stage_and_the_accuracy_before_and_after(tmp_path: Path) -> None:
    write(
        tmp_path,
        '{"kind": "start", "step": 0}',
        evaluation_line(0, "a", 0.0, 10),
        evaluation_line(0, "b", 0.04, 30),
        train_line(1, 0, 5.0),
        train_line(2, 0, 4.0),
        evaluation_line(2, "a", 0.1, 10),
        evaluation_line(2, "b", 0.2, 30),
        train_line(3, 1, 3.0),
        evaluation_line(3, "a", 0.2, 10),
        evaluation_line(3, "b", 0.4, 30),
    )
    summary = summarise(tmp_path)
    first, second = summary.stages
    assert (first.steps, first.tokens, first.first_loss, first.last_loss) == (2, 200, 5.0, 4.0)
    assert (second.steps, second.tokens, second.tokens_per_second) == (1, 100, 30.0)
    together = summary.held_out[-1]
    assert (together.corpus, together.before, together.after) == ("all", 0.03, 0.35)
    console = Console(width=100, record=True, file=(tmp_path / "out").open("w"))
    console.print(render(summary))
    assert "35.00%" in console.export_text()


def test_figures_that_were_not_finite_are_read_as_nan_and_the_summary_passes_over_them(
    tmp_path: Path,
) -> None:
    none = {**json.loads(train_line(1, 0, 0.0)), "loss": None, "grad_norm": None, "skipped": None}
    path = write(tmp_path, json.dumps(none), train_line(2, 0, 4.0), train_line(3, 0, 3.0))
    first = read_metrics(path)[0]
    assert math.isnan(first["loss"]) and math.isnan(first["grad_norm"]) and first["skipped"] is None
    stage = summarise(tmp_path).stages[0]
    assert (stage.first_loss, stage.last_loss) == (4.0, 3.0)


def test_a_summary_up_to_a_step_knows_nothing_of_what_came_after(tmp_path: Path) -> None:
    def evaluation(step: int, accuracy: float) -> dict[str, object]:
        return {
            **{"kind": "evaluation", "step": step, "corpus": "ja", "seq_length": 16, "loss": 1.0},
            **{"masked_accuracy": accuracy, "most_frequent_accuracy": 0.1, "scored_tokens": 9},
        }

    records = [evaluation(0, 0.0), evaluation(10, 0.5), evaluation(20, 0.75)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert summarise(tmp_path).held_out[0].after == 0.75
    assert summarise(tmp_path, 10).held_out[0].after == 0.5
