"""The tables of one run: what was planned beside what happened, its stages, corpora, restarts and skipped steps."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from data_prep.errors import DataPrepError
from data_prep.manifest import Manifest
from retrieva_pretrain.curriculum.blend import Blend
from retrieva_pretrain.curriculum.position import CorpusPositions
from retrieva_pretrain.curriculum.stages import Curriculum
from retrieva_pretrain.durations import format_duration
from retrieva_pretrain.errors import RetrievaError
from retrieva_pretrain.planning.corpora import DataPlan, plan_data
from retrieva_pretrain.planning.hardware import DEFAULT_MFU, H100
from retrieva_pretrain.planning.plan import make_plan
from retrieva_pretrain.recipe.yaml_tree import write_text
from retrieva_pretrain.report.history import RunHistory
from retrieva_pretrain.report.settings import Base, compare_with_base, shown_recipe
from retrieva_pretrain.report.table import NONE, Table, count

_MOST_ROWS = 200
Epochs = tuple[str, float | None, float | None, int | None]
"""A corpus's name, epochs planned, epochs read so far, and tokens read so far; None where not known."""


@dataclass
class RunTables:
    """The tables of one run."""

    figures: list[tuple[str, str]]
    plan: Table
    stages: Table | None
    corpora: Table | None
    events: Table | None
    base: Base | None
    recipe: str
    notes: list[str] = field(default_factory=list)


def run_tables(run: RunHistory, base: Path | None) -> RunTables:
    """Lay out one run.

    Args:
        run: the run.
        base: the recipe to compare with; without one what the run's was made from, and where nothing is recorded of
            that, the project's own that differs in the fewest settings.

    Raises:
        RecipeError: `base` cannot be read.
    """
    data, problem = _data(run)
    epochs = _epochs(run, data)
    notes = [problem] if problem else []
    if run.recipe is None:
        notes.append(
            "There is no recipe.yaml here that this version reads: nothing is told of plan and settings."
        )
    if not len(run.steps):
        notes.append("No training step has been recorded yet.")
    elif not run.evaluations:
        notes.append("No held-out text has been scored.")
    if run.lines_left_out:
        notes.append(f"Lines of metrics.jsonl that are not whole were left out: {run.lines_left_out:,}.")
    return RunTables(
        figures=_figures(run),
        plan=_plan(run, data, epochs),
        stages=_stages(run),
        corpora=_corpora(run, data, epochs),
        events=_events(run),
        base=compare_with_base(run, run.recipe, base) if run.recipe is not None else None,
        recipe="" if run.recipe is None else write_text(shown_recipe(run.recipe)),
        notes=notes,
    )


def _figures(run: RunHistory) -> list[tuple[str, str]]:
    total = Curriculum(run.recipe).total_steps if run.recipe else 0
    done = f"{run.last_step:,}" + (f" of {total:,}" if total else "")
    figures = [("steps", done), ("tokens", count(run.tokens))]
    loss = run.figures["loss"][np.isfinite(run.figures["loss"])]
    if len(loss):
        last = loss[-20:]
        figures.append(
            ("loss, mean of the last 20 steps" if len(last) == 20 else "loss", f"{last.mean():.3f}")
        )
    for name, title, shown in (
        ("tokens_per_second", "tokens/s, median", "{:,.0f}"),
        ("mfu", "MFU, median", "{:.1%}"),
    ):
        if (median := _median(run.figures[name], shown)) != NONE:
            figures.append((title, median))
    figures.append(("skipped steps", f"{sum(e.kind == 'skipped' for e in run.events):,}"))
    figures.append(("restarts", f"{sum(e.kind == 'restart' for e in run.events):,}"))
    if run.world_size:
        figures.append(("processes", f"{run.world_size:,} ({run.platform})"))
    return figures


def _plan(run: RunHistory, data: DataPlan | None, read: list[Epochs]) -> Table:
    """Time, tokens and steps as they were planned, for where the run stands and for its end, beside what happened."""
    seconds = float(np.nansum(run.figures["step_seconds"]))
    rows: list[list[str]] = []
    total = Curriculum(run.recipe) if run.recipe else None
    rows.append(
        [
            "steps",
            f"{total.total_steps:,}" if total else NONE,
            f"{run.last_step:,}",
            _share(run.last_step, total.total_steps if total else None),
        ]
    )
    rows.append(["tokens", count(total.total_tokens) if total else NONE, count(run.tokens), _share(run.tokens, total.total_tokens if total else None)])  # fmt: skip
    planned = _planned_seconds(run, data)
    rows.append(["time in steps", format_duration(planned[0]) if planned else NONE, format_duration(seconds), _share(seconds, planned[0] if planned else None)])  # fmt: skip
    if planned and len(run.steps):
        rows.append(
            [
                "time in steps, of those done",
                format_duration(planned[1]),
                format_duration(seconds),
                _share(seconds, planned[1]),
            ]
        )
    if run.seconds_taken_again:
        rows.append(
            ["time in steps lost and taken again", NONE, format_duration(run.seconds_taken_again), ""]
        )
    for name, planned_epochs, epochs, _ in read:
        if planned_epochs is not None and epochs is not None:
            rows.append(
                [
                    f"epochs of {name}",
                    f"{planned_epochs:,.3g}",
                    f"{epochs:,.3g}",
                    _share(epochs, planned_epochs),
                ]
            )
    if planned is None:
        note = (
            "No time was planned: the peak of these devices or the size of the vocabulary is not known here."
        )
    else:
        note = f"Time planned: at {planned[2]:.0%} MFU of the devices' peak, on {run.world_size:,} of them."
    return Table(["", "planned", "happened", "share"], rows, note=note)


def _planned_seconds(run: RunHistory, data: DataPlan | None) -> tuple[float, float, float] | None:
    """Seconds of the whole run and of the steps that are done, and the MFU that they assume."""
    ratio = run.figures["tflops_per_gpu"] / run.figures["mfu"]
    ratio = ratio[np.isfinite(ratio)]
    if run.recipe is None or data is None or not run.world_size or not len(ratio):
        return None
    hardware = replace(H100, name="the run's", peak_tflops=float(np.median(ratio)))
    try:
        plan = make_plan(run.recipe, run.world_size, hardware, mfu=DEFAULT_MFU, data=data)
    except (RetrievaError, DataPrepError):
        return None
    if plan.run is None or plan.run.time is None:
        return None
    curriculum, done = Curriculum(run.recipe), 0.0
    for stage in plan.stages:
        start, end = curriculum.stage_steps(stage.stage)
        taken = min(max(run.last_step - start, 0), end - start) / (end - start)
        done += taken * stage.cost.time.expected if stage.cost and stage.cost.time else 0.0
    return plan.run.time.expected, done, DEFAULT_MFU


def _data(run: RunHistory) -> tuple[DataPlan | None, str]:
    """Return what is here of the run's data, or why nothing is told of it."""
    if run.recipe is None:
        return None, ""
    other = "The corpora that are here are not those of the run: no epochs and no time are planned from them."
    marks = [entry.get("path") for entry in ((run.identity or {}).get("data") or {}).get("blend") or []]
    try:
        for entry, mark in zip(run.recipe.data.blend, marks, strict=False):
            prefix = Path(entry.path)
            if prefix.with_name(f"{prefix.name}.manifest.json").is_file() and Manifest.load(
                prefix
            ).fingerprint not in str(mark):
                return None, other
        return plan_data(run.recipe), ""
    except (RetrievaError, DataPrepError):
        return None, other


def _epochs(run: RunHistory, data: DataPlan | None) -> list[Epochs]:
    """Return how often each corpus is to be read and has been; nothing where the corpora are not known."""
    if data is None or run.recipe is None:
        return []
    read: list[int | None] = [None] * len(data.corpora)
    shares = [corpus.share for corpus in data.corpora]
    known = [share for share in shares if share is not None]
    if len(known) == len(shares):
        paths = [corpus.path for corpus in data.corpora]
        positions = CorpusPositions(
            run.recipe, paths, [1] * len(paths), Blend(known), data.special_tokens_per_window
        )
        read = [int(n) for n in positions.consumed(run.last_step)]
    made = []
    for corpus, tokens in zip(data.corpora, read, strict=True):
        whole = corpus.tokens_read
        so_far = (
            corpus.epochs * tokens / whole
            if corpus.epochs is not None and tokens is not None and whole
            else None
        )
        made.append((PurePath(corpus.path).name, corpus.epochs, so_far, tokens))
    return made


def _stages(run: RunHistory) -> Table | None:
    rows = []
    for stage in np.unique(run.figures["stage"][np.isfinite(run.figures["stage"])]):
        mine = run.figures["stage"] == stage
        number, of = int(stage), run.recipe.curriculum if run.recipe else []
        planned = f"{of[number].train_iters:,}" if number < len(of) else NONE
        values = {name: run.figures[name][mine] for name in run.figures}
        loss = values["loss"][np.isfinite(values["loss"])]
        rows.append([
            f"{number + 1}", f"{values['seq_length'][0]:,.0f}", planned, f"{int(mine.sum()):,}",
            _median(values["tokens_per_second"], "{:,.0f}"), _median(values["mfu"], "{:.1%}"),
            f"{loss[0]:.3f}" if len(loss) else NONE, f"{loss[-1]:.3f}" if len(loss) else NONE,
            format_duration(float(np.nansum(values["step_seconds"]))),
        ])  # fmt: skip
    headings = [
        "stage",
        "length",
        "steps planned",
        "steps recorded",
        "tokens/s",
        "MFU",
        "first loss",
        "last loss",
        "time in steps",
    ]
    return Table(headings, rows, note="Rates are medians.") if rows else None


def _median(values: Any, shown: str) -> str:
    known = values[np.isfinite(values)]
    return shown.format(float(np.median(known))) if len(known) else NONE


def _corpora(run: RunHistory, data: DataPlan | None, read: list[Epochs]) -> Table | None:
    """The corpora with the fingerprints that the run was begun with."""
    blend = ((run.identity or {}).get("data") or {}).get("blend") or []
    marks = [str(entry.get("path", "")) for entry in blend if isinstance(entry, dict)]
    planned = data.corpora if data is not None else ()
    if run.recipe is None and not marks:
        return None
    paths = [entry.path for entry in run.recipe.data.blend] if run.recipe else marks
    rows = []
    for number, path in enumerate(paths):
        name, _, mark = marks[number].partition(" ") if number < len(marks) else (PurePath(path).name, "", "")
        here = planned[number] if number < len(planned) else None
        tokens = read[number][3] if number < len(read) else None
        rows.append([
            name, mark or NONE, NONE if here is None or here.share is None else f"{here.share:.1%}",
            NONE if here is None or here.documents is None else f"{here.documents:,}",
            NONE if here is None or here.tokens is None else count(here.tokens),
            NONE if tokens is None else count(tokens),
        ])  # fmt: skip
    missing = any(row[3] == NONE for row in rows)
    note = (
        "Documents and tokens are not known where this page was made: the corpora are not there."
        if missing
        else ""
    )
    return Table(
        ["corpus", "fingerprint", "share", "documents", "tokens", "tokens read"],
        rows,
        frozenset({0, 1}),
        note,
    )


def _events(run: RunHistory) -> Table | None:
    if not run.events:
        return None
    events = sorted(run.events, key=lambda e: e.step)
    rows = [[e.kind, f"{e.step:,}", count(e.tokens), e.reason] for e in events[-_MOST_ROWS:]]
    note = f"The last {_MOST_ROWS} of {len(events):,}." if len(events) > _MOST_ROWS else ""
    return Table(["event", "step", "tokens", "reason"], rows, frozenset({0, 3}), note)


def _share(part: float, whole: float | None) -> str:
    return f"{part / whole:.1%}" if whole else ""
