"""`retrieva report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="Runs: a folder, a recipe's file, or a name under runs.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", help="The page; by default report.html in the run's folder, of several runs here."
        ),
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option("--base", help="Recipe to compare with; by default what the run's was made from."),
    ] = None,
    scores: Annotated[
        list[Path] | None,
        typer.Option("--scores", help="Folder that `retrieva evaluate` has written; may be given again."),
    ] = None,
    pictures: Annotated[
        bool, typer.Option("--pictures/--no-pictures", help="Write the charts as PNG and SVG, too.")
    ] = True,
) -> None:
    """Write a run's page: one HTML file with its curves, events, plan, recipe and corpora; several runs over one another.

    Example: retrieva report runs/retrievabert-1.3b

    Example: retrieva report runs/first runs/second --output comparison.html
    """
    from retrieva_pretrain.launch.run_files import find_run
    from retrieva_pretrain.report.page import write_report

    folders = [find_run(run).run for run in runs]
    page = output or (folders[0] if len(folders) == 1 else Path()) / "report.html"
    written = write_report(folders, page, base=base, scores=scores or [], pictures=pictures)
    size = f"{page.stat().st_size / 1e6:.1f} MB"
    beside = f"; {len(written) - 1} pictures in {written[1].parent}" if len(written) > 1 else ""
    typer.echo(f"{page} ({size}){beside}")
