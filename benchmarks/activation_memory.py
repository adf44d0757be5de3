"""What one layer of the 1.3 B recipe keeps for its backward pass, measured on the CPU.

    python benchmarks/activation_memory.py

Runs megatron-core's own layers at the recipe's widths in bf16, counts the bytes that autograd saves (parameters
left out) with each kind of recomputation, and writes docs/benchmarks/activation-memory.md: for every stage, the
bytes of all layers at the stage's largest micro-batch. Takes a few minutes.
"""

from __future__ import annotations

import platform
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch
from saved_activations import saved_bytes

from retrieva_pretrain.model.build import build_model
from retrieva_pretrain.model.recompute import set_recompute
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe, Stage
from retrieva_pretrain.training.distributed import initialize, shut_down

RECIPE = Path("recipes/retrievabert-1.3b.yaml")
PAGE = Path("docs/benchmarks/activation-memory.md")
GIB = 2**30


KINDS = (None, "selective", "full")


def main() -> None:
    """Measure every stage's length and write the page."""
    recipe = load_yaml(Recipe, RECIPE)
    encoders = {}
    for layers in (1, 3):
        shortened = load_yaml(Recipe, RECIPE, [f"model.num_layers={layers}"])
        if layers == 1:
            initialize(shortened)
        encoders[layers] = build_model(shortened, 128).bfloat16().encoder
    rows = [row(recipe, stage, encoders) for stage in recipe.curriculum]
    shut_down()
    PAGE.write_text(page(rows), encoding="utf-8")
    print(PAGE.read_text(encoding="utf-8"))


def row(recipe: Recipe, stage: Stage, encoders: dict[int, torch.nn.Module]) -> str:
    """Return the table row of a stage. What a layer keeps grows in proportion to the samples: one is measured."""
    layer = {}
    for kind in KINDS:
        chosen = stage.model_copy(update={"recompute_granularity": kind, "recompute_num_layers": None})
        one, three = (layers_keep(encoders[n], chosen, recipe.model.hidden_size) for n in (1, 3))
        layer[kind] = (three - one) / 2
    samples = stage.max_micro_batch_size
    everything = {kind: layer[kind] * recipe.model.num_layers * samples / GIB for kind in KINDS}
    again = layer[None] * samples / GIB  # of the layer that is computed again at the moment
    return (
        f"| {stage.seq_length} | {samples} | "
        + " | ".join(f"{layer[kind] / 2**20:,.1f}" for kind in KINDS)
        + f" | {everything[None]:,.0f} | {everything['selective']:,.0f} + {again:,.1f} |"
        f" {everything['full']:,.1f} + {again:,.1f} |"
    )


class _Holder:
    """What `set_recompute` expects of a model."""

    def __init__(self, encoder: torch.nn.Module) -> None:
        self.encoder = encoder


def layers_keep(encoder: torch.nn.Module, stage: Stage, hidden_size: int) -> int:
    """Return the bytes one forward pass of one sample keeps."""
    set_recompute(_Holder(encoder), stage)
    hidden_states = torch.randn(stage.seq_length, 1, hidden_size, dtype=torch.bfloat16, requires_grad=True)
    return saved_bytes(
        lambda: encoder(hidden_states=hidden_states, attention_mask=None), encoder.parameters()
    )


def page(rows: list[str]) -> str:
    """Return the page."""
    table = "\n".join(rows)
    return f"""# What the 1.3 B recipe keeps for backward

Bytes that autograd saves in one of the recipe's 48 layers (unfused attention, bf16, dropout on), measured for one sample
on a CPU and multiplied: what a layer keeps grows in proportion to the samples. `selective` computes each layer's
attention again, `full` each layer; the second number is the layer that is being computed again, at most. Weights,
gradients, optimizer states, embedding and head come on top. A GPU runs other kernels; nothing here was measured on one.

- Script: `python benchmarks/activation_memory.py`; the sizes of micro-batches are those of `recipes/retrievabert-1.3b.yaml`.
- Date: {date.today().isoformat()}; {platform.machine()}, Python {platform.python_version()}, torch {version("torch")},
  megatron-core {version("megatron-core")}.

| length | samples | MiB a layer and sample | selective | full | GiB, 48 layers | selective | full |
| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
{table}
"""


if __name__ == "__main__":
    main()
