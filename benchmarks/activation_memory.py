"""What one layer of the 1.3 B recipe keeps for its backward pass, measured on the CPU.

    python benchmarks/activation_memory.py

Runs megatron-core's own layer at the recipe's widths in bf16, counts the bytes that autograd saves (parameters
left out), and writes docs/benchmarks/activation-memory.md: for every stage, the bytes of all layers at the
stage's largest micro-batch. Takes under a minute.
"""

from __future__ import annotations

import platform
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch

from retrieva_pretrain.model.build import build_model
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe, Stage
from retrieva_pretrain.training.distributed import initialize, shut_down

RECIPE = Path("recipes/retrievabert-1.3b.yaml")
PAGE = Path("docs/benchmarks/activation-memory.md")
GIB = 2**30


def main() -> None:
    """Measure every stage's length and write the page."""
    recipe = load_yaml(Recipe, RECIPE)
    one_layer = load_yaml(Recipe, RECIPE, ["model.num_layers=1"])
    initialize(one_layer)
    layer = build_model(one_layer, 128).bfloat16().encoder.layers[0]
    rows = [row(recipe, stage, layer) for stage in recipe.curriculum]
    shut_down()
    PAGE.write_text(page(rows), encoding="utf-8")
    print(PAGE.read_text(encoding="utf-8"))


def row(recipe: Recipe, stage: Stage, layer: torch.nn.Module) -> str:
    """Return the table row of a stage. What a layer keeps grows in proportion to the samples: one is measured."""
    sample = saved_bytes(layer, stage.seq_length, recipe.model.hidden_size)
    all_layers = sample * recipe.model.num_layers
    largest = all_layers * stage.max_micro_batch_size
    return (
        f"| {stage.seq_length} | {sample / 2**20:,.1f} | {all_layers / GIB:,.2f} | {stage.max_micro_batch_size} |"
        f" {largest / GIB:,.0f} |"
    )


def saved_bytes(layer: torch.nn.Module, seq_length: int, hidden_size: int) -> int:
    """Return the bytes one forward pass of one sample keeps, every storage counted once."""
    parameters = {p.untyped_storage().data_ptr() for p in layer.parameters()}
    kept: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    hidden_states = torch.randn(seq_length, 1, hidden_size, dtype=torch.bfloat16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        # The output holds the graph, and with it every saved tensor, until the bytes are added up.
        output, _ = layer(hidden_states=hidden_states, attention_mask=None)
    assert output.requires_grad
    return sum(kept.values())


def page(rows: list[str]) -> str:
    """Return the page."""
    table = "\n".join(rows)
    return f"""# What the 1.3 B recipe keeps for backward

Bytes that autograd saves in one of the recipe's 48 layers (unfused attention, bf16, dropout on, no recomputation),
measured for one sample on a CPU and multiplied: what a layer keeps grows in proportion to the samples. Weights,
gradients, optimizer states, embedding and head come on top. A GPU runs other kernels; nothing here was measured on one.

- Script: `python benchmarks/activation_memory.py`.
- Date: {date.today().isoformat()}; {platform.machine()}, Python {platform.python_version()}, torch {version("torch")},
  megatron-core {version("megatron-core")}.

| length | MiB a layer and sample | GiB all layers, one sample | `max_micro_batch_size` | GiB at that size |
| ---: | ---: | ---: | ---: | ---: |
{table}
"""


if __name__ == "__main__":
    main()
