"""`retrieva plan`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retrieva_pretrain.cli.arguments import Overrides, RecipeFile
from retrieva_pretrain.errors import RecipeError
from retrieva_pretrain.planning.hardware import GIB, H100, Hardware

if TYPE_CHECKING:
    from rich.console import RenderableType

    from retrieva_pretrain.planning.measured import Measured
    from retrieva_pretrain.recipe.schema import Recipe


def plan(
    recipe: RecipeFile,
    overrides: Overrides = None,
    gpus: Annotated[
        int | None,
        typer.Option("--gpus", min=1, help="Number of GPUs; by default what one copy of the model needs."),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option("--cluster", help="Profile of a cluster, by name or path; H100 of 80 GB without one."),
    ] = None,
    nodes: Annotated[int | None, typer.Option("--nodes", min=1, help="Nodes of the cluster.")] = None,
    mfu: Annotated[
        float | None,
        typer.Option(
            "--mfu", min=0.001, max=1.0, help="Model FLOPs utilization to assume; times are modelled without."
        ),
    ] = None,
    measured: Annotated[
        Path | None,
        typer.Option("--measured", help="A measured.json of `retrieva preflight --recipe`: times by it."),
    ] = None,
    vocab_size: Annotated[
        int | None,
        typer.Option(
            "--vocab-size", min=1, help="Pieces of the tokenizer, where neither it nor a corpus is here."
        ),
    ] = None,
    attention: Annotated[
        str | None,
        typer.Option(
            "--attention", help="unfused or sdpa: short for the override kernels.attention_backend=..."
        ),
    ] = None,
    suggest: Annotated[
        bool,
        typer.Option(
            "--suggest", help="Propose layout, micro-batches and recomputation: the fastest that fits."
        ),
    ] = False,
    what_if: Annotated[
        str | None, typer.Option("--what-if", help="nodes=1,2,4,8: a table of several numbers of nodes.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw the curriculum into this .png or .svg.")
    ] = None,
    one_job: Annotated[
        bool, typer.Option("--one-job", help="Refuse where the run does not end within one job's walltime.")
    ] = False,
    trace: Annotated[
        bool,
        typer.Option(
            "--trace",
            help="Trace the memory of the real model's steps without a GPU; takes a minute or more.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a recipe does, needs and costs, before anything is started; exit 1 where it cannot run.

    Example: retrieva plan recipes/retrievabert-1.3b.yaml --cluster slurm-h100 --nodes 4 optimizer.lr=1e-4
    """
    from retrieva_pretrain.cli.plan_trace import show_traced
    from retrieva_pretrain.planning.corpora import plan_data
    from retrieva_pretrain.planning.limits import refuse_impossible
    from retrieva_pretrain.planning.measured import read_measured, refuse_other_model
    from retrieva_pretrain.planning.plan import make_plan, planned_recipe
    from retrieva_pretrain.planning.plot import plot_curriculum
    from retrieva_pretrain.planning.table import render, render_what_if
    from retrieva_pretrain.planning.what_if import what_if as compare
    from retrieva_pretrain.recipe.loading import load_yaml
    from retrieva_pretrain.recipe.schema import Recipe

    _refuse_combinations(
        {
            "--mfu": mfu is not None,
            "--measured": measured is not None,
            "--trace": trace,
            "--suggest": suggest,
            "--what-if": what_if is not None,
            "--gpus": gpus is not None,
            "--nodes": nodes is not None,
            "--one-job": one_job,
        }
    )
    overrides = [*(overrides or []), *_attention(attention)]
    node_counts = None if what_if is None else _node_counts(what_if)
    speeds = None if measured is None else read_measured(measured)
    loaded = load_yaml(Recipe, recipe, overrides)
    hardware = _hardware(cluster)
    count = _gpus(gpus, nodes, hardware.gpus_per_node, cluster)
    if plot is not None:
        plot_curriculum(plot, loaded)
    data = plan_data(loaded, vocab_size)
    if vocab_size not in (None, data.vocab_size):
        typer.echo(
            f"--vocab-size is ignored: the recipe's tokenizer has {data.vocab_size:,} pieces", err=True
        )
    if speeds is not None:  # here, where the file has a name
        refuse_other_model(speeds, planned_recipe(loaded), data.padded_vocab_size, measured)
        data = data.with_padded_vocab_size(speeds.model.padded_vocab_size)
    if data.padded_vocab_size is None:
        _refuse_without_vocabulary(
            loaded, {"--suggest": suggest, "--what-if": what_if is not None, "--trace": trace}
        )
    if node_counts is not None:
        rows = compare(loaded, node_counts, hardware, mfu=mfu, measured=speeds, data=data)
        _show([row.as_json() for row in rows], as_json, lambda: render_what_if(rows))
        if all(row.refusal is not None for row in rows):
            raise RecipeError(f"--what-if: {loaded.name} cannot run on any of these numbers of nodes")
        return
    if suggest:
        found = _suggest(loaded, count, hardware, data.padded_vocab_size, speeds)
        changed = load_yaml(Recipe, recipe, [*overrides, *found])
        made = make_plan(changed, count, hardware, mfu=mfu, measured=speeds, data=data)
        _show({"overrides": found, "plan": made.as_json()}, as_json, lambda: render(made))
        if not as_json:
            by = "by the model" if speeds is None else "by what was measured, else by the model"
            typer.echo(f"\nThe fastest that fits, {by};\nappend it to a command, or edit the recipe:")
            typer.echo("\n".join(f"  {override}" for override in found))
        return
    made = make_plan(loaded, count, hardware, mfu=mfu, measured=speeds, data=data)
    content, planned = made.as_json(), planned_recipe(loaded)
    if trace and as_json:
        show_traced(planned, made, content)
    _show(content, as_json, lambda: render(made))
    if trace and not as_json:
        show_traced(planned, made, None)
    refuse_impossible(loaded, made, one_job=one_job)


_EXCLUDE = (
    ("--mfu", "--measured"),
    ("--gpus", "--nodes"),
    ("--trace", "--suggest"),
    *(("--what-if", other) for other in ("--trace", "--suggest", "--gpus", "--nodes", "--one-job")),
    ("--suggest", "--one-job"),
)


def _refuse_combinations(given: dict[str, bool]) -> None:
    for first, second in _EXCLUDE:
        if given[first] and given[second]:
            raise RecipeError(f"{first} and {second}: give one of them")


def _refuse_without_vocabulary(recipe: Recipe, given: dict[str, bool]) -> None:
    for option, is_given in given.items():
        if is_given:
            raise RecipeError(
                f"{option}: needs the size of the vocabulary, and tokenizer.model {recipe.tokenizer.model} is not here;"
                " give --vocab-size"
            )


def _attention(chosen: str | None) -> list[str]:
    """Return the override that `--attention` is short for; `local` and `flash` are its older words."""
    kernels = {"auto": "auto", "unfused": "unfused", "sdpa": "sdpa", "local": "unfused", "flash": "auto"}
    if chosen is None:
        return []
    if chosen not in kernels:
        raise RecipeError(f"--attention: {chosen} is neither unfused nor sdpa")
    return [f"kernels.attention_backend={kernels[chosen]}"]


def _suggest(
    recipe: Recipe,
    gpus: int | None,
    hardware: Hardware,
    padded_vocab_size: int | None,
    measured: Measured | None,
) -> list[str]:
    """Return the overrides of the fastest layout that fits."""
    from retrieva_pretrain.planning.suggest import suggest

    if gpus is None:
        raise RecipeError("--suggest: say for how many: --gpus N, or --cluster C --nodes N")
    assert padded_vocab_size is not None
    return suggest(recipe, gpus, hardware, padded_vocab_size, measured).overrides(recipe)


def _hardware(cluster: str | None) -> Hardware:
    """Return what a plan must know of a cluster's profile."""
    if cluster is None:
        return H100
    from retrieva_pretrain.launch.profiles import load_profile, seconds

    profile = load_profile(cluster)
    memory = None
    if profile.gpu_memory is not None:
        unit = {"M": 2**20, "G": GIB, "T": 2**40}[profile.gpu_memory[-1]]
        memory = int(profile.gpu_memory[:-1]) * unit
    return Hardware(
        name=profile.name,
        gpus_per_node=profile.gpus_per_node,
        gpu_memory=memory,
        peak_tflops=profile.gpu_peak_tflops,
        memory_bandwidth=profile.gpu_memory_bandwidth,
        interconnect_bandwidth=profile.interconnect_bandwidth,
        max_nodes=profile.max_nodes,
        walltime=None if profile.walltime is None else seconds(profile.walltime),
        node_hour_price=profile.node_hour_price,
        price_unit=profile.price_unit,
    )


def _gpus(gpus: int | None, nodes: int | None, gpus_per_node: int, cluster: str | None) -> int | None:
    if nodes is None:
        return gpus
    if not gpus_per_node:
        raise RecipeError(f"--nodes: the nodes of {cluster} have no gpus_per_node; give --gpus")
    return nodes * gpus_per_node


def _node_counts(text: str) -> list[int]:
    name, _, numbers = text.partition("=")
    counts = numbers.split(",")
    if name != "nodes" or not all(count.isdecimal() and 0 < int(count) < 10**6 for count in counts):
        raise RecipeError(f"--what-if: cannot read {text!r}; write nodes=1,2,4,8")
    return [int(count) for count in dict.fromkeys(counts)]


def _show(content: object, as_json: bool, table: Callable[[], RenderableType]) -> None:
    if as_json:
        typer.echo(json.dumps(content, ensure_ascii=False, indent=2))
        return
    from rich.console import Console

    Console().print(table())
