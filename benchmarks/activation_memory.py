"""The peak memory of the 1.3 B recipe's steps, traced on fake tensors, next to what `retrieva plan` says.

    python benchmarks/activation_memory.py

Traces every stage on 4 GPUs with three sets of kernels and writes docs/benchmarks/activation-memory.md. Takes a few
minutes; needs no GPU and no tokenizer.
"""

from __future__ import annotations

import platform
from datetime import date
from importlib.metadata import version
from pathlib import Path

from retrieva_pretrain.planning.hardware import GIB, H100
from retrieva_pretrain.planning.memory import stage_memory
from retrieva_pretrain.recipe.layout import stage_layouts
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.tracing.trace import trace_stage_memory

RECIPE = Path("recipes/retrievabert-1.3b.yaml")
PAGE = Path("docs/benchmarks/activation-memory.md")
GPUS, VOCABULARY = 4, 99_584

_PLAIN = [
    f"kernels.{fusion}=false"
    for fusion in ("bias_activation_fusion", "bias_dropout_fusion", "gradient_accumulation_fusion")
]
_HALF = [f"curriculum.{stage}.max_micro_batch_size={n}" for stage, n in enumerate((64, 32, 16, 4))]
_SELECTIVE = [f"curriculum.{stage}.recompute_granularity=selective" for stage in (1, 2, 3)]
VARIANTS = {
    "SDPA, fusions (the default on CUDA)": [],
    "SDPA, no fusions": _PLAIN,
    "unfused attention, no fusions, selective recomputation from length 256 on": [
        "kernels.attention_backend=unfused",
        *_PLAIN,
        *_HALF,
        *_SELECTIVE,
    ],
}


def main() -> None:
    """Trace every variant and write the page."""
    rows = [row for name, overrides in VARIANTS.items() for row in rows_of(name, overrides)]
    PAGE.write_text(page(rows), encoding="utf-8")
    print(PAGE.read_text(encoding="utf-8"))


def rows_of(name: str, overrides: list[str]) -> list[str]:
    """Return the table's rows of one variant."""
    recipe = load_yaml(Recipe, RECIPE, overrides)
    rows = []
    for traced in trace_stage_memory(recipe, GPUS, VOCABULARY):
        layout = stage_layouts(recipe, GPUS)[traced.stage]
        plan = stage_memory(recipe, traced.stage, layout, VOCABULARY)
        sizes = (traced.static, traced.after_forward, traced.peak, plan.step, plan.static + plan.gather)
        rows.append(
            f"| {name} | {traced.seq_length} x {traced.micro_batch_size} | "
            + " | ".join(f"{size / GIB:.1f}" for size in sizes)
            + f" | {plan.step / traced.peak - 1:+.1%} |"
        )
    return rows


def page(rows: list[str]) -> str:
    """Return the page."""
    table = "\n".join(rows)
    usable = (H100.usable_memory or 0) / GIB
    return f"""# Memory of the 1.3 B recipe, traced

What torch's allocator hands out on one of {GPUS} GPUs in a training step, in GiB. The real model, its optimizer and two
micro-batches run on fake tensors, with the tensors that CUDA's kernels keep; nothing is allocated. No GPU has run this
yet: figures measured on one will stand in [H100](h100.md).

- Script: `python benchmarks/activation_memory.py`. For another recipe: `retrieva plan RECIPE --gpus N --trace`.
- Date: {date.today().isoformat()}; {platform.machine()}, Python {platform.python_version()}, torch {version("torch")},
  megatron-core {version("megatron-core")}.

| kernels | length x samples | static | forward ends | traced peak | plan | a save, plan | plan to trace |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
{table}

- static: weights, gradients in fp32 and the share of the optimizer's states; all that is there between two steps.
- forward ends: static, and what is kept for backward.
- a save, plan: static, and the gather of the optimizer's states. There are no activations then. Not traced.
- Not in it: the CUDA context, NCCL's buffers, cuBLAS's workspace and fragmentation. `retrieva plan` leaves 6 % of the
  GPU for them: {usable:.1f} of 80 GiB can be used.
"""


if __name__ == "__main__":
    main()
