"""`retrieva train`."""

from __future__ import annotations

from typing import Annotated

import typer

from retrieva_pretrain.cli.arguments import Overrides, RecipeFile


def train(
    recipe: RecipeFile,
    overrides: Overrides = None,
    exit_before: Annotated[
        str | None,
        typer.Option(
            help="Save and leave before this time since the start, such as 23:50:00, 90m or 1-12:00:00.",
            metavar="TIME",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Train through all stages of a recipe, from its newest checkpoint where there is one.

    Run it under torchrun, one process a GPU; started plainly it trains in this one process. Exit code 75: asked to
    stop (SIGTERM, SIGUSR1 or --exit-before), saved, to be started again.

    Example: torchrun --nproc-per-node 4 -m retrieva_pretrain train recipes/retrievabert-1.3b.yaml seed=1
    """
    from retrieva_pretrain.durations import parse_duration
    from retrieva_pretrain.recipe.loading import load_yaml
    from retrieva_pretrain.recipe.schema import Recipe
    from retrieva_pretrain.training.prepare import prepare
    from retrieva_pretrain.training.run_lock import hold_run

    limit = parse_duration(exit_before) if exit_before is not None else None
    # What can be refused is refused before torch takes its seconds to load.
    run = prepare(load_yaml(Recipe, recipe, overrides or []))
    with hold_run(run.folder):
        from retrieva_pretrain.platform.quiet import quiet_upstream

        quiet_upstream()
        from retrieva_pretrain.training.run import train as train_run

        code = train_run(run, exit_before=limit)
    if code:
        raise typer.Exit(code)
