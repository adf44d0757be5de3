"""`retrieva plan`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from retrieva_pretrain.cli.arguments import Overrides, RecipeFile


def plan(
    recipe: RecipeFile,
    overrides: Overrides = None,
    gpus: Annotated[
        int | None,
        typer.Option("--gpus", min=1, help="Number of GPUs; by default what one copy of the model needs."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the stages, tokens, learning rates and batches of a recipe; exit 1 where it cannot run.

    Example: retrieva plan recipes/retrievabert-1.3b.yaml --gpus 32 optimizer.lr=1e-4
    """
    from rich.console import Console

    from retrieva_pretrain.planning.plan import make_plan
    from retrieva_pretrain.planning.table import render
    from retrieva_pretrain.recipe.loading import load_yaml
    from retrieva_pretrain.recipe.schema import Recipe

    made = make_plan(load_yaml(Recipe, recipe, overrides or []), gpus)
    if as_json:
        typer.echo(json.dumps(made.as_json(), ensure_ascii=False, indent=2))
    else:
        Console().print(render(made))
