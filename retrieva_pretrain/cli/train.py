"""`retrieva train`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from retrieva_pretrain.cli.arguments import Overrides, RecipeFile

if TYPE_CHECKING:
    from retrieva_pretrain.recipe.schema import Recipe


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
    profile: Annotated[
        str | None,
        typer.Option(
            help="Write a trace of these steps, such as 10-12, into the run's folder: profile/*.json.",
            metavar="STEPS",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Build everything and take one step of every stage on random tokens; keep nothing.",
        ),
    ] = False,
) -> None:
    """Train through all stages of a recipe, from its newest checkpoint where there is one.

    Run it under torchrun, one process a GPU; started plainly it trains in this one process. Exit code 75: asked to
    stop (SIGTERM, SIGUSR1 or --exit-before), saved, to be started again.

    Example: torchrun --nproc-per-node 4 -m retrieva_pretrain train recipes/retrievabert-1.3b.yaml seed=1
    """
    from retrieva_pretrain.durations import parse_duration
    from retrieva_pretrain.errors import RetrievaError
    from retrieva_pretrain.recipe.base import record_base
    from retrieva_pretrain.recipe.loading import load_yaml
    from retrieva_pretrain.recipe.schema import Recipe
    from retrieva_pretrain.training.prepare import prepare, prepare_dry_run
    from retrieva_pretrain.training.profiled_steps import ProfiledSteps
    from retrieva_pretrain.training.run_lock import hold_run, is_first_process

    limit = parse_duration(exit_before) if exit_before is not None else None
    # What can be refused is refused before torch takes its seconds to load.
    content = load_yaml(Recipe, recipe, overrides or [])
    if dry_run:
        if profile is not None or exit_before is not None:
            raise RetrievaError("--dry-run takes neither --profile nor --exit-before: it is no run")
        _dry_run(content, prepare_dry_run(content))
        return
    steps = ProfiledSteps.parse(profile, content) if profile is not None else None
    run = prepare(content)
    with hold_run(run.folder):
        if is_first_process():
            record_base(run.folder.path, recipe, overrides or [])
        from retrieva_pretrain.platform.quiet import quiet_upstream

        quiet_upstream()
        from retrieva_pretrain.training.run import train as train_run

        code = train_run(run, exit_before=limit, profiled=steps)
    if code:
        raise typer.Exit(code)


def _dry_run(recipe: Recipe, vocab_size: int) -> None:
    from retrieva_pretrain.platform.quiet import quiet_upstream

    quiet_upstream()
    from retrieva_pretrain.training.dry_run import dry_run

    dry_run(recipe, vocab_size)
