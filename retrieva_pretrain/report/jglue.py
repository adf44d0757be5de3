"""JGLUE scores on the page: what `retrieva evaluate` has kept, as a chart over tokens and as a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from retrieva_pretrain.errors import RetrievaError
from retrieva_pretrain.evaluation.run import EarlierScores, evaluated_before
from retrieva_pretrain.evaluation.summary import COLUMNS
from retrieva_pretrain.report.table import NONE, Table, count
from retrieva_pretrain.report.vega_lite import Chart, Spec, lines, series_encoding, short, tooltip, whole

_NO_SCORES = {"checkpoints", "logs", "jobs", "tensorboard", "wandb", "profile", "report_pictures"}


def find_scores(runs: Sequence[Path], given: Sequence[Path]) -> EarlierScores:
    """Read the scores in folders of `retrieva evaluate`: those that are given, and those inside of the runs' folders.

    Raises:
        RetrievaError: a folder that was given holds none, or one of its files cannot be read.
    """
    together = EarlierScores()
    for folder in given:
        if not folder.is_dir() or not any(folder.glob("*/scores.json")):
            raise RetrievaError(
                f"--scores {folder}: holds no scores; give the --output of `retrieva evaluate`"
            )
    inside = [place for run in runs for place in _score_folders(run)]
    for folder in [*given, *inside]:
        found = evaluated_before(folder)
        together.scores.update(found.scores)
        together.tokens.update(found.tokens)
        together.trials.update(found.trials)
    return together


def _score_folders(run: Path) -> list[Path]:
    places = [run, *(path for path in run.iterdir() if path.is_dir() and path.name not in _NO_SCORES)]
    return [path for path in places if any(path.glob("*/scores.json"))]


def scores_chart(found: EarlierScores, unit: tuple[float, str], most: float) -> Chart | None:
    """Return the scores over the tokens of pretraining; None where of no encoder both are known.

    Args:
        found: the scores.
        unit: in which tokens are shown, its size and its name.
        most: tokens of the longest run, in that unit; the axis ends there.
    """
    size, name_of_unit = unit
    order = sorted(found.tokens, key=lambda name: found.tokens[name])
    # Checkpoints of a run are called RUN-step_N: two runs are two lines.
    several = len({_run_of(name) for name in order}) > 1
    rows: list[Spec] = [
        {
            "s": f"{_run_of(name)}: {title}" if several else title,
            "x": short(found.tokens[name] / size),
            "y": short(value),
            "encoder": name,
        }
        for task, metric, title in COLUMNS
        for name in order
        if (value := found.scores[name].get(task, {}).get(metric)) is not None
    ]
    if not rows:
        return None
    x_end = max(most, *(row["x"] for row in rows))
    encoding: Spec = {
        "x": {"field": "x", "type": "quantitative", "axis": {"title": f"{name_of_unit} of pretraining", "grid": False, "tickCount": 6},
              "scale": {"domain": [0, x_end], "nice": False}},
        "y": {"field": "y", "type": "quantitative", "axis": {"title": "score on the development set"}, "scale": {"zero": False}},
        **series_encoding(list(dict.fromkeys(row["s"] for row in rows))),
        "tooltip": [*tooltip(name_of_unit, "score", ".3f")[:3], {"field": "encoder"}],
    }  # fmt: skip
    return Chart(
        "jglue", "JGLUE over tokens", _note(found), whole(lines([], rows, encoding, step=False), [], rows)
    )


def scores_table(found: EarlierScores) -> Table | None:
    """Return the scores of all encoders, the least trained first, in columns for what was scored."""
    columns = [
        (task, metric, title)
        for task, metric, title in COLUMNS
        if any(metric in scores.get(task, {}) for scores in found.scores.values())
    ]
    if not columns:
        return None
    rows = []
    for name in sorted(found.scores, key=lambda name: (found.tokens.get(name, math.inf), name)):
        cells = [found.scores[name].get(task, {}).get(metric) for task, metric, _ in columns]
        shown = [NONE if cell is None else f"{cell:.3f}" for cell in cells]
        rows.append([name, count(found.tokens[name]) if name in found.tokens else NONE, *shown])
    return Table(["encoder", "tokens", *(title for _, _, title in columns)], rows, note=_note(found))


def _run_of(encoder: str) -> str:
    return encoder.rpartition("-step_")[0] or encoder


def _note(found: EarlierScores) -> str:
    note = "Development sets of JGLUE."
    if found.trials:
        note += f" Trials, whose training was cut short and whose scores say nothing: {', '.join(sorted(found.trials))}."
    return note
