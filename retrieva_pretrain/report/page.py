"""`report.html`: what a run, or several, did, in one file that opens from disk and asks no network for anything."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from data_prep.whole_files import write_whole
from retrieva_pretrain.errors import RetrievaError
from retrieva_pretrain.report.charts import make_charts
from retrieva_pretrain.report.history import RunHistory, read_run
from retrieva_pretrain.report.jglue import find_scores, scores_table
from retrieva_pretrain.report.pictures import drawing_library, write_picture
from retrieva_pretrain.report.run_tables import run_tables
from retrieva_pretrain.report.settings import settings_that_differ

MOST_RUNS = 8
"""More curves over one another are told apart by nobody."""


def write_report(
    folders: Sequence[Path],
    output: Path,
    *,
    base: Path | None = None,
    scores: Sequence[Path] = (),
    pictures: bool = True,
) -> list[Path]:
    """Write the page of runs, and its pictures as PNG and SVG in the folder `NAME_pictures` beside it; the files.

    Args:
        folders: of the runs, one to eight.
        output: the page, .html.
        base: the recipe with which the runs' are compared; by default what each was made from.
        scores: folders that `retrieva evaluate` has written; those inside a run's folder are found.
        pictures: whether to write them.

    Raises:
        RetrievaError: the drawing library is not installed, there is no such run, or too many are given.
    """
    library = drawing_library()
    if output.suffix not in (".html", ".htm"):
        raise RetrievaError(f"--output {output}: name a file that ends in .html")
    if not 1 <= len(folders) <= MOST_RUNS:
        raise RetrievaError(f"{len(folders)} runs were given; give 1 to {MOST_RUNS}")
    runs = [read_run(folder) for folder in folders]
    labels = _labels(runs)
    found = find_scores(folders, scores)
    charts = make_charts(runs, labels, found)
    environment = Environment(
        loader=PackageLoader("retrieva_pretrain.report", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    page = environment.get_template("report.html.j2").render(
        title=labels[0] if len(runs) == 1 else f"{len(runs)} runs: {', '.join(labels)}",
        made=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        state=_state(runs[0]) if len(runs) == 1 else "",
        runs=[
            {"label": label, "tables": run_tables(run, base)} for run, label in zip(runs, labels, strict=True)
        ],
        several=len(runs) > 1,
        marks=any(run.events for run in runs),
        charts=charts,
        scores=scores_table(found),
        differing=settings_that_differ(runs, labels),
        # Neither can end the script that it stands in.
        library=Markup(_script(library) if charts else ""),  # noqa: S704
        specs=Markup(_json({chart.name: chart.spec for chart in charts})),  # noqa: S704
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    write_whole(output, page.encode())
    written = [output]
    for chart in charts if pictures else []:
        for ending in ("png", "svg"):
            written.append(output.with_name(f"{output.stem}_pictures") / f"{chart.name}.{ending}")
            write_picture(chart.spec, written[-1])
    return written


def _script(library: Any) -> str:
    text = library.javascript_bundle("window.vegaEmbed=vegaEmbed;")
    return re.sub("</(?=script)", r"<\\/", text, flags=re.IGNORECASE)


def _json(content: Any) -> str:
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _labels(runs: Sequence[RunHistory]) -> list[str]:
    """Return a name for each run, all different: of two of the same name, with their folders and then a number."""
    labels: list[str] = []
    for run in runs:
        label = run.name
        if sum(other.name == run.name for other in runs) > 1:
            folder = run.folder.resolve()
            label = f"{run.name} ({folder.parent.parent.name}/{folder.parent.name})"
        labels.append(label if label not in labels else f"{label} #{len(labels) + 1}")
    return labels


def _state(run: RunHistory) -> str:
    if run.outcome is None:
        return "The run has not ended, or was killed."
    if run.outcome.get("reason") == "done":
        return "The run is done."
    return f"The run ended: {run.outcome.get('message') or run.outcome.get('reason')}"
