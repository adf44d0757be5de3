"""One optimizer step, readable from top to bottom."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from retrieva_pretrain.curriculum.schedule import learning_rate
from retrieva_pretrain.curriculum.stages import Curriculum
from retrieva_pretrain.data.batches import TrainingSamples
from retrieva_pretrain.errors import RetrievaError
from retrieva_pretrain.model.optimizer import set_learning_rate
from retrieva_pretrain.recipe.layout import StageLayout
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.training.batch import MicroBatch, scored_slots, to_device
from retrieva_pretrain.training.distributed import (
    Ranks,
    counts_in_sums,
    seed_random_streams,
    sum_over_processes,
)


@dataclass(frozen=True)
class StepResult:
    """The global figures of one step, the same on every process."""

    loss: float
    """Mean negative log-likelihood in nats over the scored tokens of the global batch."""

    masked_accuracy: float
    """Share of scored tokens whose most probable prediction is right."""

    learning_rate: float
    grad_norm: float
    """Norm of the gradient before clipping."""

    scored_tokens: int


@dataclass
class Scores:
    """Sums over scored tokens."""

    loss: float
    correct: float
    tokens: float

    @property
    def mean_loss(self) -> float:
        """Nats a scored token."""
        return self.loss / max(self.tokens, 1.0)

    @property
    def accuracy(self) -> float:
        """Share of scored tokens predicted right."""
        return self.correct / max(self.tokens, 1.0)


class Stepper:
    """Takes optimizer steps: knows the model, the optimizer, the samples and this process's share of them."""

    def __init__(
        self,
        recipe: Recipe,
        model: DistributedDataParallel,
        optimizer: MegatronOptimizer,
        samples: TrainingSamples,
        layouts: tuple[StageLayout, ...],
        ranks: Ranks,
    ) -> None:
        self.recipe = recipe
        self.curriculum = Curriculum(recipe)
        self.model = model
        self.optimizer = optimizer
        self.samples = samples
        self.layouts = layouts
        self.ranks = ranks

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must remember beside tensors, as plain JSON; the same on every process."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up the state of a checkpoint."""

    def train_step(self, step: int) -> StepResult:
        """Take the 0-based step `step`: forward and backward over the global batch, clip, update.

        Raises:
            RetrievaError: the loss or the gradient is not finite. Nothing was updated.
        """
        position = self.curriculum.at(step)
        layout = self.layouts[position.index]
        rate = learning_rate(self.recipe, step)
        set_learning_rate(self.optimizer, self.recipe, rate)
        self.model.zero_grad_buffer()
        self.optimizer.zero_grad()

        scores = run_micro_batches(
            self.model,
            self._micro_batches(step, position.seq_length, layout),
            seq_length=position.seq_length,
            micro_batch_size=layout.micro_batch_size,
            num_microbatches=layout.num_microbatches,
            before_each=partial(self._seed, step),
        )
        if not math.isfinite(scores.loss):
            raise RetrievaError(
                f"the loss of step {step + 1} is {scores.loss}; nothing was updated. "
                "Start again from the last checkpoint with a smaller optimizer.lr or a longer warm-up."
            )
        grad_norm = update_weights(self.optimizer, step)
        return StepResult(
            loss=scores.mean_loss,
            masked_accuracy=scores.accuracy,
            learning_rate=rate,
            grad_norm=grad_norm,
            scored_tokens=int(scores.tokens),
        )

    def _seed(self, step: int, micro_batch: MicroBatch) -> None:
        seed_random_streams(self.recipe.seed, step, micro_batch.first_sample)

    def _micro_batches(self, step: int, seq_length: int, layout: StageLayout) -> Iterator[MicroBatch]:
        rate = self.recipe.masking_probability(self.curriculum.at(step).index)
        slots = scored_slots(rate, seq_length)
        share = self.ranks.data_parallel_rank, self.ranks.data_parallel_size
        for numbers, samples in self.samples.micro_batches(step, *share, layout.micro_batch_size):
            yield to_device(samples, int(numbers[0]), slots)


def update_weights(optimizer: MegatronOptimizer, step: int) -> float:
    """Clip and apply the reduced gradients; returns their norm before clipping.

    The norm is asked for first: bf16 has no loss scaler, and `optimizer.step` would put a gradient that is not
    finite straight into the weights. It is global, so all processes refuse alike.

    Raises:
        RetrievaError: the norm is not finite. Nothing was updated.
    """
    optimizer.prepare_grads()
    norm = float(optimizer.get_grad_norm() or 0.0)
    if not math.isfinite(norm):
        raise RetrievaError(
            f"the gradient norm of step {step + 1} is {norm}; nothing was updated. "
            "Start again from the last checkpoint with a smaller optimizer.lr or a longer warm-up."
        )
    optimizer.step()
    return norm


def run_micro_batches(
    model: DistributedDataParallel,
    micro_batches: Iterator[MicroBatch],
    *,
    seq_length: int,
    micro_batch_size: int,
    num_microbatches: int,
    before_each: Callable[[MicroBatch], None] | None = None,
    forward_only: bool = False,
) -> Scores:
    """Run Megatron's pipeline schedule over this process's micro-batches and add up the scores of all.

    Gradients, unless `forward_only`, are left reduced in the model's buffers, divided by the scored tokens of
    the global batch.
    """

    def forward_step(
        batches: Iterator[MicroBatch], module: torch.nn.Module
    ) -> tuple[Tensor, Callable[..., Any]]:
        batch = next(batches)
        if before_each is not None:
            before_each(batch)
        output = module(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            segment_ids=batch.segment_ids,
            scored_positions=batch.scored_positions,
            labels=batch.labels,
        )
        return output, partial(_sum_loss, batch.loss_weights)

    sums: list[dict[str, Tensor]] = get_forward_backward_func()(
        forward_step_func=forward_step,
        data_iterator=micro_batches,
        model=[model],
        num_microbatches=num_microbatches,
        seq_length=seq_length,
        micro_batch_size=micro_batch_size,
        forward_only=forward_only,
    )
    mine = [0.0, 0.0, 0.0]
    if counts_in_sums():
        mine = (
            torch.stack([torch.stack([s["loss"], s["correct"], s["tokens"]]) for s in sums]).sum(0).tolist()
        )
    return Scores(*sum_over_processes(mine))


def _sum_loss(weights: Tensor, output: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return the summed loss (what is differentiated), the scored tokens, and the figures to report."""
    loss, correct = output  # [b, m] each
    total = (loss.float() * weights).sum()
    tokens = weights.sum()
    report = {
        "loss": total.detach().double(),
        "correct": (correct * weights).sum().double(),
        "tokens": tokens.double(),
    }
    return total, tokens.to(torch.int), report
