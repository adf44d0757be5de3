"""`retrieva preflight`, and what its jobs run."""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retrieva_pretrain.cli.arguments import Overrides

if TYPE_CHECKING:
    from retrieva_pretrain.recipe.schema import Recipe


def preflight(
    overrides: Overrides = None,
    cluster: Annotated[str, typer.Option("--cluster", help="A profile's name or YAML file.")] = "local",
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="Nodes to look at.")] = 1,
    processes: Annotated[
        int | None, typer.Option("--processes", min=1, help="Processes of a node, instead of the profile's.")
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            "--recipe",
            help="A recipe, whose corpora and checkpoints are looked at too, and whose stages are timed.",
        ),
    ] = None,
    speed: Annotated[
        bool, typer.Option("--speed/--no-speed", help="Time the recipe's stages on the first node.")
    ] = True,
    measured: Annotated[
        Path | None,
        typer.Option(
            "--measured",
            help="Where to write the measured throughput; measured.json among the preflight's files by default.",
            show_default=False,
        ),
    ] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="key.path=value: a change to the profile.")
    ] = None,
    folder: Annotated[
        Path, typer.Option("--folder", help="Where it keeps its files; every node must see it.")
    ] = Path("preflight"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show script and command, submit nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a cluster's nodes in minutes, before a run takes hours of them; exit 1 where something is red.

    Example: retrieva preflight --cluster my-cluster.yaml --nodes 4 --recipe recipes/retrievabert-1.3b.yaml
    """
    from retrieva_pretrain.errors import LaunchError
    from retrieva_pretrain.launch.preflight import (
        plan_preflight,
        rehearsed,
        submit_preflight,
        wait_for_result,
    )
    from retrieva_pretrain.launch.profiles import load_profile
    from retrieva_pretrain.recipe.loading import load_yaml
    from retrieva_pretrain.recipe.schema import Recipe

    profile = load_profile(cluster, change or [])
    if overrides and recipe is None:
        raise LaunchError(f"{overrides[0]}: changes a recipe, and none is given (--recipe)")
    if measured is not None:
        if recipe is None or not speed:
            raise LaunchError(
                "--measured: only the stages of a recipe are timed: give --recipe, without --no-speed"
            )
        if not measured.parent.is_dir():
            raise LaunchError(f"--measured {measured}: there is no folder {measured.parent}")
    chosen = load_yaml(Recipe, recipe, overrides or []) if recipe is not None else None
    where = folder / f"{profile.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    planned = plan_preflight(profile, where, nodes=nodes, processes=processes, recipe=chosen, speed=speed)
    if dry_run:
        typer.echo(rehearsed(planned))
        return
    job = submit_preflight(planned)
    typer.echo(f"preflight of {profile.name}, job {job}; files in {where}", err=True)
    result = wait_for_result(planned, job, lambda text: typer.echo(text, err=True))
    if as_json:
        typer.echo(json.dumps(result, ensure_ascii=False, indent=1))
    else:
        _show(result)
    if planned.measured.exists():
        file = _hand_over(planned.measured, measured)
        where_to = [] if cluster == "local" else ["--cluster", cluster, "--nodes", str(nodes)]
        command = ["retrieva", "plan", str(recipe), *(overrides or []), *where_to, "--measured", str(file)]
        if chosen is not None and _is_of_cuda(file, chosen):
            typer.echo(f"the plan with what was measured: {shlex.join(command)}", err=True)
        else:
            typer.echo(
                f"measured: {file}, of kernels that the recipe does not run on CUDA; no plan takes it",
                err=True,
            )
    if "failure" in result or any(finding["level"] == "red" for finding in result["findings"]):
        raise typer.Exit(1)


def preflight_job(spec: Path, command: list[str]) -> None:
    """Supervise the job of a preflight."""
    from retrieva_pretrain.launch.preflight import run_preflight_job
    from retrieva_pretrain.launch.schedulers.inside import inside
    from retrieva_pretrain.launch.spec import read_spec

    settings = read_spec(spec)
    raise typer.Exit(run_preflight_job(settings, command, inside(settings.profile)))


def preflight_rank(spec: Path, speed: Annotated[bool, typer.Option("--speed/--no-speed")] = True) -> None:
    """Be one process of a preflight."""
    from retrieva_pretrain.launch.spec import read_spec
    from retrieva_pretrain.platform.quiet import quiet_upstream
    from retrieva_pretrain.recipe.loading import load_yaml
    from retrieva_pretrain.recipe.schema import Recipe

    settings = read_spec(spec)
    recipe = load_yaml(Recipe, settings.recipe) if settings.recipe is not None else None
    quiet_upstream()
    from data_prep.errors import DataPrepError
    from data_prep.whole_files import write_whole
    from retrieva_pretrain.errors import RetrievaError
    from retrieva_pretrain.launch.preflight import RESULT
    from retrieva_pretrain.launch.stage_timing import time_stages
    from retrieva_pretrain.preflight.judge import Promised, as_json, checkpoint_bytes, judge
    from retrieva_pretrain.preflight.measure import measure
    from retrieva_pretrain.preflight.stages import refuse_here

    token = (settings.run / "token").read_text(encoding="utf-8") if (settings.run / "token").exists() else ""
    ranks = measure(settings.run, token, recipe)
    if ranks is None:
        return
    needed = times = refusal = None
    if recipe is not None:
        try:
            refuse_here(recipe)
            needed = checkpoint_bytes(recipe)
        except (RetrievaError, DataPrepError) as error:
            refusal = str(error)
        times = time_stages(settings, spec, recipe) if speed and refusal is None else None
    profile = settings.profile
    promised = Promised(profile.gpus_per_node, profile.gpu_peak_tflops, profile.gpu_memory_bandwidth)
    findings = judge(ranks, promised, checkpoint_bytes=needed, refusal=refusal, stage_times=times)
    result = {"cluster": profile.name, "findings": as_json(findings), "ranks": ranks, "stage_times": times}
    write_whole(settings.run / RESULT, json.dumps(result, ensure_ascii=False, indent=1).encode())


def preflight_stages(spec: Path) -> None:
    """Be one process of the timing of a recipe's stages."""
    from retrieva_pretrain.launch.spec import read_spec
    from retrieva_pretrain.platform.quiet import quiet_upstream
    from retrieva_pretrain.recipe.loading import load_yaml
    from retrieva_pretrain.recipe.schema import Recipe

    settings = read_spec(spec)
    if settings.recipe is None:
        raise typer.BadParameter("a preflight without a recipe has no stages")
    recipe = load_yaml(Recipe, settings.recipe)
    quiet_upstream()
    from data_prep.tokenizer import Tokenizer
    from data_prep.whole_files import write_whole
    from retrieva_pretrain.launch.preflight import MEASURED
    from retrieva_pretrain.launch.stage_timing import BEGIN_SECONDS, stage_times
    from retrieva_pretrain.planning.measured import write_measured
    from retrieva_pretrain.preflight.stages import measured_file, time_all_stages

    gpus = settings.nodes * settings.processes_per_node
    vocab_size = Tokenizer(recipe.tokenizer.model).vocab_size

    def write(found: dict[str, Any]) -> None:
        write_whole(stage_times(settings), json.dumps(found, indent=1).encode())
        if (measured := measured_file(recipe, vocab_size, found)) is not None:
            write_measured(settings.run / MEASURED, measured)

    time_all_stages(recipe, vocab_size, gpus, write, seconds=BEGIN_SECONDS)


def _is_of_cuda(file: Path, recipe: Recipe) -> bool:
    """Whether a plan of the recipe, which is always for GPUs, takes what was measured."""
    from retrieva_pretrain.errors import RecipeError
    from retrieva_pretrain.planning.measured import read_measured, refuse_other_model

    try:
        refuse_other_model(read_measured(file), recipe)
    except RecipeError:
        return False
    return True


def _hand_over(file: Path, wanted: Path | None) -> Path:
    """Copy the measured throughput to where the user wants it; returns where it is."""
    if wanted is None:
        return file
    from data_prep.whole_files import write_whole

    write_whole(wanted, file.read_bytes())
    return wanted


def _show(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if "failure" in result:
        typer.echo(f"red: the measurement itself failed\n{result['failure']}")
        return
    colours = {"green": "green", "yellow": "yellow", "red": "bold red", "none": "dim"}
    table = Table(
        "check", "", "what was found", title=f"Preflight of {result['cluster']}", title_justify="left"
    )
    for finding in result["findings"]:
        level = finding["level"]
        table.add_row(
            Text(finding["check"]),
            Text("-" if level == "none" else level, colours[level]),
            Text(finding["said"]),
        )
    Console().print(table)
