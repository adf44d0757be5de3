"""`retrieva job` and `retrieva node`: what the scripts of submitted jobs run. Not shown in the help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Spec = Annotated[Path, typer.Argument(help="The job's settings, in the run's jobs/.")]


def job(
    spec: Spec, command: Annotated[list[str], typer.Argument(help="Starts training on the nodes.")]
) -> None:
    """Supervise a training job that `retrieva launch` has submitted."""
    from retrieva_pretrain.launch.schedulers.inside import inside
    from retrieva_pretrain.launch.spec import read_spec
    from retrieva_pretrain.launch.supervisor import Supervisor

    settings = read_spec(spec)
    raise typer.Exit(Supervisor(settings, command, inside(settings.profile)).run())


def node(
    spec: Spec,
    attempt: Annotated[int, typer.Option()],
    address: Annotated[str, typer.Option()],
    port: Annotated[int, typer.Option()],
    leave_at: Annotated[float | None, typer.Option()] = None,
    node_rank: Annotated[int | None, typer.Option()] = None,
) -> None:
    """Run one node of a training job."""
    from retrieva_pretrain.launch.node import Meeting, node_rank_here, run_node
    from retrieva_pretrain.launch.spec import read_spec

    meeting = Meeting(attempt, address, port, leave_at)
    rank = node_rank if node_rank is not None else node_rank_here()
    raise typer.Exit(run_node(read_spec(spec), meeting, rank))
