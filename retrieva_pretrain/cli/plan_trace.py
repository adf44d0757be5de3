"""`retrieva plan --trace`: the traced memory of each stage next to the plan's figure."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from retrieva_pretrain.planning.hardware import GIB
from retrieva_pretrain.tracing.trace import TracedMemory, trace_stage_memory

if TYPE_CHECKING:
    from retrieva_pretrain.planning.plan import Plan
    from retrieva_pretrain.recipe.schema import Recipe


def show_traced(recipe: Recipe, plan: Plan, content: dict[str, Any] | None) -> None:
    """Trace all stages of a plan, of a known vocabulary, and print a table; or add to the plan's JSON, `content`.

    Raises:
        RecipeError: the recipe cannot be traced.
    """
    assert plan.padded_vocab_size is not None

    def report(row: TracedMemory) -> None:
        typer.echo(f"traced stage {row.stage + 1} of {len(plan.stages)}", err=True)

    traced = trace_stage_memory(recipe, plan.gpus, plan.padded_vocab_size, on_traced=report)
    if content is not None:
        content["traced"] = [asdict(row) for row in traced]
        return
    _print(plan, traced)


def _print(plan: Plan, traced: list[TracedMemory]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("stage", "length", "static", "forward ends", "traced peak", "plan", "peak in"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in traced:
        cost = plan.stages[row.stage].cost
        table.add_row(
            str(row.stage + 1),
            f"{row.seq_length} x {row.micro_batch_size}",
            *(f"{size / GIB:.1f}" for size in (row.static, row.after_forward, row.peak)),
            "" if cost is None else f"{cost.memory.step / GIB:.1f}",
            row.peak_phase,
        )
    console = Console()
    console.print(table)
    console.print(
        "traced: GiB that torch hands out on one GPU in a step, on fake tensors; no GPU has run it",
        style="dim",
    )
