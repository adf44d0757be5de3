"""Layers under torch.compile, with and without the fusions that megatron-core compiles itself; where graphs break."""

from __future__ import annotations

import torch
from choices import COMPILED_CHOICES, FUSED
from part import Part
from parts.fusions import time_choice


def run(part: Part) -> None:
    """Measure; the fused kernels once more, for a comparison on the same card in the same state."""
    if not part.rehearse:
        time_choice(part, "+ gradient accumulation", FUSED)
    for name, overrides in list(COMPILED_CHOICES.items())[: 1 if part.rehearse else 2]:
        if part.left < 15 and not part.rehearse:
            part.emit("speed", name=name, error="no time was left")
            continue
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        time_choice(part, name, overrides, is_profiled=True)
        counters = torch._dynamo.utils.counters
        part.emit(
            "graphs",
            name=name,
            graphs=counters["stats"].get("unique_graphs"),
            breaks={reason[:300]: count for reason, count in counters["graph_break"].items()},
        )
