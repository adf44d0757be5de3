"""`retrieva status`, `logs` and `cancel`: a run that was launched."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from typing import Annotated

import typer

RunName = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="A run's folder, its recipe's file, or its name under runs.", show_default=False
    ),
]


def status(
    run: RunName,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it again and again, until the run has ended.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    interval: Annotated[float, typer.Option("--interval", min=0.5, help="Seconds between looks.")] = 5.0,
) -> None:
    """Show where a run stands: step, loss, speed, time left, checkpoints, jobs, restarts and their reasons.

    Example: retrieva status runs/retrievabert-1.3b --watch
    """
    from retrieva_pretrain.launch.run_files import find_run
    from retrieva_pretrain.launch.status import run_status
    from retrieva_pretrain.launch.status_page import status_text

    found = find_run(run)
    while True:
        now = run_status(found)
        text = (
            json.dumps(asdict(now), ensure_ascii=False, indent=None if watch else 1)
            if as_json
            else status_text(now)
        )
        if watch and not as_json and sys.stdout.isatty():
            sys.stdout.write("\x1b[2J\x1b[H")  # an empty screen, written from its top
        typer.echo(text)
        # A scheduler that does not answer now may do so the next time.
        if not watch or now.state not in ("running", "waiting", "unknown"):
            return
        time.sleep(interval)


def logs(
    run: RunName,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on showing what is written.")] = False,
    rank: Annotated[int, typer.Option("--rank", min=0, help="Whose log.")] = 0,
    attempt: Annotated[
        int | None, typer.Option("--attempt", min=1, help="Which start; by default the last.")
    ] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Lines from the end.")] = 20,
) -> None:
    """Show the end of a rank's log; of a run that failed, first what the first failing rank has said.

    Example: retrieva logs runs/retrievabert-1.3b --follow
    """
    from retrieva_pretrain.launch.logs import follow as followed
    from retrieva_pretrain.launch.logs import last_words
    from retrieva_pretrain.launch.run_files import find_run
    from retrieva_pretrain.launch.train import active_jobs

    found = find_run(run)
    if not follow:
        typer.echo(last_words(found, rank=rank, attempt=attempt, lines=lines), nl=False)
        return
    for text in followed(found, rank=rank, lines=lines, goes_on=lambda: bool(active_jobs(found))):
        typer.echo(text, nl=False)


def cancel(
    run: RunName,
    at_once: Annotated[bool, typer.Option("--now", help="Do not let training save first.")] = False,
) -> None:
    """End the jobs of a run: waiting ones leave the queue, training saves and leaves.

    Example: retrieva cancel runs/retrievabert-1.3b
    """
    from retrieva_pretrain.launch.cancel import cancel_run
    from retrieva_pretrain.launch.run_files import find_run

    found = find_run(run)
    jobs = cancel_run(found, at_once=at_once)
    if not jobs:
        typer.echo(f"{found.run}: no job of this run waits or runs")
        return
    how = "ended" if at_once else "told to save and leave; waiting ones are out of the queue"
    typer.echo(f"{found.run}: job {', '.join(jobs)}: {how}. See `retrieva status`.")
