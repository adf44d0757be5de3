"""`retrieva train`."""

from __future__ import annotations

from retrieva_pretrain.cli.arguments import Overrides, RecipeFile


def train(
    recipe: RecipeFile,
    overrides: Overrides = None,
) -> None:
    """Train through all stages of a recipe, from its newest checkpoint where there is one.

    Run it under torchrun, one process a GPU; started plainly it trains in this one process.

    Example: torchrun --nproc-per-node 4 -m retrieva_pretrain train recipes/retrievabert-1.3b.yaml seed=1
    """
    from retrieva_pretrain.recipe.loading import load_yaml
    from retrieva_pretrain.recipe.schema import Recipe
    from retrieva_pretrain.training.prepare import prepare
    from retrieva_pretrain.training.run_lock import hold_run

    # What can be refused is refused before torch takes its seconds to load.
    run = prepare(load_yaml(Recipe, recipe, overrides or []))
    with hold_run(run.folder):
        from retrieva_pretrain.platform.quiet import quiet_upstream

        quiet_upstream()
        from retrieva_pretrain.training.run import train as train_run

        train_run(run)
