"""`retrieva launch`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from retrieva_pretrain.cli.arguments import Overrides, RecipeFile

if TYPE_CHECKING:
    from retrieva_pretrain.recipe.schema import Recipe


def launch(
    recipe: RecipeFile,
    overrides: Overrides = None,
    cluster: Annotated[
        str, typer.Option("--cluster", help="A profile's name (recipes/clusters) or YAML file.")
    ] = "local",
    nodes: Annotated[
        int, typer.Option("--nodes", min=1, help="Nodes; may differ from one launch to the next.")
    ] = 1,
    processes: Annotated[
        int | None,
        typer.Option("--processes", min=1, help="Processes of a node, instead of what the profile says."),
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", help="key.path=value: a change to the profile, such as walltime=01:00:00."),
    ] = None,
    jobs: Annotated[
        int,
        typer.Option(
            "--jobs",
            min=1,
            max=1000,
            help="Jobs to submit at once, each after the one before: where a job can neither be requeued nor submit"
            " another.",
        ),
    ] = 1,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show script and command, submit nothing.")
    ] = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="On this machine: do not wait for the end and show the log.")
    ] = False,
) -> None:
    """Train a recipe on a cluster, or on this machine under torchrun, until it is done.

    A job saves before its time is up and goes back into the queue; after a failure that may pass it starts again.

    Example: retrieva launch recipes/retrievabert-1.3b.yaml --cluster my-cluster.yaml --nodes 4 --dry-run
    """
    from retrieva_pretrain.launch.profiles import load_profile
    from retrieva_pretrain.launch.train import launch_run
    from retrieva_pretrain.recipe.base import record_base
    from retrieva_pretrain.recipe.loading import load_yaml
    from retrieva_pretrain.recipe.schema import Recipe

    profile = load_profile(cluster, change or [])
    chosen = load_yaml(Recipe, recipe, overrides or [])
    if not dry_run:
        _refuse_what_cannot_train(chosen)
    launched = launch_run(
        chosen, profile, nodes=nodes, processes_per_node=processes, jobs=jobs, dry_run=dry_run
    )
    if not dry_run:
        record_base(launched.run.run, recipe, overrides or [])
    typer.echo(launched.message)
    if profile.scheduler == "local" and not dry_run and not detach:
        from retrieva_pretrain.launch.watch import stay_until_the_end

        raise typer.Exit(stay_until_the_end(launched.run, launched.job_id or ""))


def _refuse_what_cannot_train(recipe: Recipe) -> None:
    """Refuse corpora and a run's folder that do not fit, before they wait in a queue for it."""
    from retrieva_pretrain.data.corpora import Corpora
    from retrieva_pretrain.recipe.identity import identity
    from retrieva_pretrain.training.run_folder import RunFolder

    corpora = Corpora.open(recipe)
    RunFolder.of(recipe).refuse_other_recipe(identity(recipe, corpora.fingerprints, corpora.tokenizer.sha256))
