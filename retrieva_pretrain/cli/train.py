"""`retrieva train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="key.path=value: changes to single fields of the recipe.", metavar="[KEY=VALUE]..."
        ),
    ] = None,
) -> None:
    """Train through all stages of a recipe, from its newest checkpoint where there is one.

    Run it under torchrun, one process a GPU; started plainly it trains in this one process.

    Example: torchrun --nproc-per-node 4 -m retrieva_pretrain train recipes/retrievabert-1.3b.yaml seed=1
    """
    from retrieva_pretrain.recipe.loading import load_yaml
    from retrieva_pretrain.recipe.schema import Recipe
    from retrieva_pretrain.training.prepare import prepare

    # What can be refused is refused before torch takes its seconds to load.
    run = prepare(load_yaml(Recipe, recipe, overrides or []))
    from retrieva_pretrain.platform.quiet import quiet_upstream

    quiet_upstream()
    from retrieva_pretrain.training.run import train as train_run

    train_run(run)
