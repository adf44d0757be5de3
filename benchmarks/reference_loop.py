"""A run trained once more by a plain PyTorch loop, and its losses and gradient norms beside those of the run.

    retrieva train recipe.yaml                       # see SETTINGS for what the recipe must be like
    retrieva export runs/NAME EXPORT --step 1
    python benchmarks/reference_loop.py runs/NAME EXPORT
    python benchmarks/reference_loop.py runs/NAME EXPORT --device cuda --json

The loop shares with the run its samples and nothing else: transformers' model with eager attention and fp32 weights
from the export, `torch.optim.AdamW`, `torch.nn.utils.clip_grad_norm_`, and the learning rate written from
docs/curriculum.md. Kernels, gradient accumulation, loss scaling, clipping, weight decay or a schedule that are wrong in
the run show as another loss. Exit code 1 if the two differ by more than TOLERANCE.

The export is of step 1: the first step of a warm-up has learning rate 0, so its checkpoint holds the initial weights.
Needs transformers; works offline. A slow test runs it on the CPU.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from retrieva_pretrain.data.batches import TrainingSamples
from retrieva_pretrain.data.corpora import Corpora
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.report.metrics import read_metrics

# What a recipe needs for the comparison, beside a warm-up, a linear decay and a first stage of one step (the end of a
# stage is saved).
SETTINGS = ("precision=fp32", "model.hidden_dropout=0.0", "model.attention_dropout=0.0")
# Losses: absolute, in nats. Gradient norms and learning rates: relative.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Step:
    """The figures of one step."""

    loss: float
    """Mean negative log-likelihood in nats over the scored tokens of the global batch."""

    grad_norm: float
    """Before clipping."""

    learning_rate: float
    seq_length: int


@dataclass(frozen=True)
class Difference:
    """The largest differences between a run and the reference loop, and the steps where they are."""

    steps: int
    loss: float
    loss_at: int
    grad_norm: float
    """Relative."""

    grad_norm_at: int
    learning_rate: float
    """Relative."""

    clipped_steps: int
    """Steps whose gradient was longer than `clip_grad`."""

    first_loss: float
    last_loss: float

    def exceeds(self, tolerance: float = TOLERANCE) -> bool:
        """Return whether any figure differs by more; a NaN does."""
        return not max(self.loss, self.grad_norm, self.learning_rate) <= tolerance


def reference_steps(recipe: Recipe, export: Path, device: str = "cpu") -> Iterator[Step]:
    """Train the exported model through all stages of the recipe; yield the figures of each step.

    Raises:
        ValueError: the recipe has what this loop lacks, or the weights of the export are not in fp32.
    """
    _refuse(recipe)
    model = _load(export, device)
    settings = recipe.optimizer
    optimizer = torch.optim.AdamW(
        _parameter_groups(model, settings.weight_decay),
        lr=0.0,
        betas=(settings.adam_beta1, settings.adam_beta2),
        eps=settings.adam_eps,
    )
    samples = TrainingSamples(recipe, Corpora.open(recipe))
    total = sum(stage.train_iters for stage in recipe.curriculum)
    for step in range(total):
        batch = {
            name: torch.from_numpy(array).to(device)
            for name, array in samples.samples(samples.step(step)).items()
        }
        loss = _loss(model(input_ids=batch["input_ids"]).logits, batch["labels"], batch["loss_mask"])
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_grad)
        rate = linear_schedule(
            step, settings.lr, settings.min_lr, settings.warmup_steps(total), total_steps=total
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        yield Step(loss.item(), norm.item(), rate, batch["input_ids"].size(1))


def linear_schedule(step: int, lr: float, min_lr: float, warmup: int, total_steps: int) -> float:
    """Return the learning rate of the 0-based step: from 0 to `lr`, then in a straight line to `min_lr`."""
    if step < warmup:
        return lr * step / warmup
    return lr - (lr - min_lr) * (step - warmup) / (total_steps - warmup)


def compare(recipe: Recipe, logged: list[dict[str, Any]], reference: list[Step]) -> Difference:
    """Compare the lines of a run's `metrics.jsonl` with the steps of the loop.

    Raises:
        ValueError: the run did not take the same steps, or skipped some.
    """
    taken = [line for line in logged if line["kind"] == "train"]
    if [line["step"] for line in taken] != list(range(1, len(reference) + 1)):
        raise ValueError(f"the run logged {len(taken)} steps, the loop took {len(reference)}")
    skipped = [line["step"] for line in taken if line["skipped"]]
    if skipped:
        raise ValueError(f"the run skipped the steps {skipped}")
    pairs = list(zip(taken, reference, strict=True))
    losses = [abs(line["loss"] - step.loss) for line, step in pairs]
    norms = [abs(line["grad_norm"] - step.grad_norm) / step.grad_norm for line, step in pairs]
    rates = [abs(line["learning_rate"] - step.learning_rate) / recipe.optimizer.lr for line, step in pairs]
    clip = recipe.optimizer.clip_grad
    return Difference(
        steps=len(pairs),
        loss=_largest(losses),
        loss_at=losses.index(_largest(losses)) + 1,
        grad_norm=_largest(norms),
        grad_norm_at=norms.index(_largest(norms)) + 1,
        learning_rate=_largest(rates),
        clipped_steps=sum(step.grad_norm > clip for step in reference),
        first_loss=reference[0].loss,
        last_loss=reference[-1].loss,
    )


def _largest(values: list[float]) -> float:
    """Return the first NaN, else the largest."""
    return next((value for value in values if value != value), max(values))


def _refuse(recipe: Recipe) -> None:
    first = recipe.curriculum[0].train_iters
    fits = {
        "precision: fp32": recipe.precision == "fp32",
        "no dropout": recipe.model.hidden_dropout == recipe.model.attention_dropout == 0.0,
        "attention across documents, positions from 0": not (
            recipe.data.reset_attention_mask or recipe.data.reset_position_ids
        ),
        "a linear schedule over the run, with a warm-up": recipe.optimizer.lr_decay_style == "linear"
        and recipe.schedule_scope == "run"
        and recipe.optimizer.warmup_steps(sum(stage.train_iters for stage in recipe.curriculum)) > 0,
        "clip_grad above 0": recipe.optimizer.clip_grad > 0,
        "a checkpoint of step 1": first == 1 or recipe.checkpoint.save_interval == 1,
    }
    missing = [what for what, is_so in fits.items() if not is_so]
    if missing:
        raise ValueError(f"the reference loop needs a recipe with {missing[0]}")


def _load(export: Path, device: str) -> torch.nn.Module:
    from transformers import AutoModelForMaskedLM

    if json.loads((export / "export.json").read_text(encoding="utf-8"))["step"] != 1:
        raise ValueError(f"{export} is not of step 1, whose weights are the initial ones")
    if json.loads((export / "config.json").read_text(encoding="utf-8"))["dtype"] != "float32":
        raise ValueError(f"{export} holds rounded weights; export the fp32 run in fp32")
    # The whole fp32 product on CUDA, not TF32.
    torch.set_float32_matmul_precision("highest")
    model: torch.nn.Module = AutoModelForMaskedLM.from_pretrained(
        export, trust_remote_code=True, dtype=torch.float32, attn_implementation="eager"
    )
    return model.to(device).train()


def _parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for the matrices; none for biases and norms."""
    named = list(model.named_parameters())
    spared = [parameter for name, parameter in named if name.endswith("bias") or "norm" in name]
    return [
        {
            "params": [p for name, p in named if not (name.endswith("bias") or "norm" in name)],
            "weight_decay": weight_decay,
        },
        {"params": spared, "weight_decay": 0.0},
    ]


def _loss(logits: Tensor, labels: Tensor, scored: Tensor) -> Tensor:
    """[b, s, v], [b, s] and [b, s] of 0 and 1 -> mean over the scored positions of the whole batch."""
    every = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(scored)
    return (every * scored).sum() / scored.sum()


def main() -> int:
    """Compare, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("export", type=Path, help="the export of its step 1")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args()
    recipe = load_yaml(Recipe, chosen.run / "recipe.yaml")
    reference = list(reference_steps(recipe, chosen.export, chosen.device))
    found = compare(recipe, read_metrics(chosen.run / "metrics.jsonl"), reference)
    if chosen.json:
        print(json.dumps({**asdict(found), "tolerance": TOLERANCE, "device": chosen.device}))
    else:
        print(
            f"{found.steps} steps from loss {found.first_loss:.4f} to {found.last_loss:.4f}, {found.clipped_steps}"
            f" clipped. Largest differences: loss {found.loss:.2e} at step {found.loss_at}, gradient norm"
            f" {found.grad_norm:.2e} of it at step {found.grad_norm_at}, learning rate {found.learning_rate:.1e}."
        )
    return int(found.exceeds())


if __name__ == "__main__":
    sys.exit(main())
