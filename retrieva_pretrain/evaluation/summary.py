"""Grid points -> the best of each task, and what a person or a script reads of it. No torch."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from retrieva_pretrain.durations import format_duration
from retrieva_pretrain.evaluation.published import PUBLISHED, SHIFTED_NOTE
from retrieva_pretrain.evaluation.tasks import TASKS, Result, Task

# Columns of the card's table.
COLUMNS = (
    ("marc-ja", "accuracy", "MARC-ja acc"),
    ("jsts", "pearson", "JSTS Pearson"),
    ("jsts", "spearman", "JSTS Spearman"),
    ("jnli", "accuracy", "JNLI acc"),
    ("jsquad", "em", "JSQuAD EM"),
    ("jsquad", "f1", "JSQuAD F1"),
    ("jcqa", "accuracy", "JCommonsenseQA acc"),
)


@dataclass(frozen=True)
class Cell:
    """One learning rate and number of epochs, over all seeds."""

    learning_rate: float
    epochs: int
    seeds: tuple[int, ...]
    mean: dict[str, float]
    spread: dict[str, float]
    """Standard deviation over the seeds (of a sample); 0 where there is one."""

    seconds: float
    """Wall time of all seeds together."""


def cells(results: Sequence[Result]) -> list[Cell]:
    """Return the grid with its seeds averaged, in the order of the results."""
    grouped: dict[tuple[float, int], list[Result]] = defaultdict(list)
    for result in results:
        grouped[result.point.learning_rate, result.point.epochs].append(result)
    made = []
    for (rate, epochs), group in grouped.items():
        values = {name: [result.scores[name] for result in group] for name in group[0].scores}
        made.append(
            Cell(
                rate,
                epochs,
                tuple(result.point.seed for result in group),
                {name: statistics.fmean(scores) for name, scores in values.items()},
                {name: statistics.stdev(s) if len(s) > 1 else 0.0 for name, s in values.items()},
                sum(result.seconds for result in group),
            )
        )
    return made


def best_cell(task: Task, results: Sequence[Result]) -> Cell:
    """Return the best of the grid: the highest mean of the task's first metric; the first of equals."""
    return max(cells(results), key=lambda cell: cell.mean[task.metrics[0]])


def as_json(results: Mapping[str, Sequence[Result]]) -> dict[str, Any]:
    """Return an encoder's scores by task: the best, the grid and every point."""
    return {
        name: {
            "best": asdict(best_cell(TASKS[name], of_task)),
            "grid": [asdict(cell) for cell in cells(of_task)],
            "points": [asdict(result) for result in of_task],
        }
        for name, of_task in results.items()
        if of_task
    }


def best_scores(results: Mapping[str, Sequence[Result]]) -> dict[str, dict[str, float]]:
    """Return the metrics of each task's best grid point."""
    return {name: best_cell(TASKS[name], of_task).mean for name, of_task in results.items() if of_task}


def rows(scores: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[tuple[str, list[str], bool]]:
    """Return name, cells and whether it is shifted, of these encoders and of the published ones behind them."""
    made = []
    for name, of_encoder in [*scores.items(), *((f"{n} (published)", s) for n, s in PUBLISHED.items())]:
        squad = of_encoder.get("jsquad", {})
        shifted = bool(squad) and squad["em"] > squad["f1"]
        texts = []
        for task, metric, _ in COLUMNS:
            value = of_encoder.get(task, {}).get(metric)
            mark = "*" if shifted and task in ("jsquad", "jcqa") else ""
            texts.append("-" if value is None else f"{value:.3f}{mark}")
        made.append((name, texts, shifted))
    return made


def grid_table(task: Task, results: Sequence[Result]) -> Table:
    """Return a task's grid for the terminal, the best marked."""
    best = best_cell(task, results)
    table = Table(title=task.title, title_justify="left")
    table.add_column("learning rate", justify="right")
    table.add_column("epochs", justify="right")
    table.add_column("seeds", justify="right")
    for metric in task.metrics:
        table.add_column(metric, justify="right")
    table.add_column("time", justify="right")
    for cell in cells(results):
        is_best = (cell.learning_rate, cell.epochs) == (best.learning_rate, best.epochs)
        values = [
            f"{cell.mean[metric]:.3f}" + (f" ± {cell.spread[metric]:.3f}" if len(cell.seeds) > 1 else "")
            for metric in task.metrics
        ]
        table.add_row(
            ("* " if is_best else "") + f"{cell.learning_rate:g}",
            str(cell.epochs),
            str(len(cell.seeds)),
            *values,
            format_duration(cell.seconds),
            style="bold" if is_best else None,
        )
    return table


def scores_table(scores: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Table:
    """Return the best of all encoders for the terminal, the published ones below."""
    table = Table(title="JGLUE, development sets", title_justify="left")
    table.add_column("encoder", overflow="fold")
    for _, _, title in COLUMNS:
        table.add_column(title, justify="right")
    made = rows(scores)
    for number, (name, texts, _) in enumerate(made):
        table.add_row(name, *texts, end_section=number == len(scores) - 1)
    if any(shifted for _, _, shifted in made):
        table.caption = f"* {SHIFTED_NOTE}"
        table.caption_justify = "left"
    return table


def markdown(scores: Mapping[str, Mapping[str, Mapping[str, float]]], note: str) -> str:
    """Return the table for a model card; `note` says how it was made."""
    made = rows(scores)
    lines = [
        "| encoder | " + " | ".join(title for _, _, title in COLUMNS) + " |",
        "| --- |" + " ---: |" * len(COLUMNS),
        *(f"| {name} | " + " | ".join(texts) + " |" for name, texts, _ in made),
    ]
    if any(shifted for _, _, shifted in made):
        lines += ["", f"\\* {SHIFTED_NOTE}."]
    return "\n".join([*lines, "", note, ""])
