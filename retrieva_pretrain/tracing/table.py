"""Traced memory beside planned memory, for a terminal. No torch."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from retrieva_pretrain.planning.hardware import GIB
from retrieva_pretrain.planning.memory import MemoryPlan
from retrieva_pretrain.tracing.trace import TracedMemory


def render_traced(traced: Sequence[TracedMemory], planned: Sequence[MemoryPlan]) -> RenderableType:
    """Return a table of stages: what was traced of each, and what the formulas plan for it.

    Args:
        traced: stages in any order.
        planned: of all stages, by their number.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("stage", "length", "batch", "static", "kept", "traced", "in", "planned", "off by"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in traced:
        plan = planned[row.stage]
        table.add_row(
            str(row.stage + 1),
            f"{row.seq_length:,}",
            str(row.micro_batch_size),
            f"{row.static / GIB:.2f}",
            f"{(row.after_forward - row.static) / GIB:.2f}",
            f"{row.peak / GIB:.2f}",
            row.peak_phase,
            f"{plan.step / GIB:.2f}",
            f"{plan.step / row.peak - 1:+.1%}",
        )
    note = (
        "traced: the most GiB that torch's allocator hands out in a training step, on fake tensors and not measured;"
        " the CUDA context, NCCL and cuBLAS come on top. planned: the same by formula, without a save"
    )
    return Group(table, Text(note, style="dim"))
