"""One optimizer step, readable from top to bottom."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer.clip_grads import clip_grad_by_total_norm_fp32
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from retrieva_pretrain.curriculum.schedule import learning_rate
from retrieva_pretrain.curriculum.stages import Curriculum
from retrieva_pretrain.data.batches import TrainingSamples
from retrieva_pretrain.data.prefetch import Prefetch
from retrieva_pretrain.model.optimizer import set_learning_rate
from retrieva_pretrain.model.recompute import set_recompute
from retrieva_pretrain.recipe.layout import StageLayout, scored_slots
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.training.batch import MicroBatch, to_device
from retrieva_pretrain.training.distributed import (
    Ranks,
    counts_in_sums,
    seed_random_streams,
    sum_over_processes,
)
from retrieva_pretrain.training.saying import say
from retrieva_pretrain.training.skip_log import log_skip
from retrieva_pretrain.training.skipping import SkipPolicy
from retrieva_pretrain.training.stopping import StopRequests
from retrieva_pretrain.training.watchdog import Watchdog


@dataclass(frozen=True)
class StepResult:
    """The global figures of one step, the same on every process."""

    loss: float
    """Mean negative log-likelihood in nats over the scored tokens of the global batch."""

    masked_accuracy: float
    """Share of scored tokens whose most probable prediction is right."""

    learning_rate: float
    grad_norm: float
    """Norm of the gradient before clipping; NaN where the loss was not finite and it was not computed."""

    scored_tokens: int

    skipped: str | None = None
    """Why the weights were left as they are; None where the step was taken."""

    stop: str | None = None
    """Why the run is to stop after this step; None where it goes on."""


@dataclass
class Scores:
    """Sums over scored tokens."""

    loss: float
    correct: float
    tokens: float

    votes: tuple[float, ...] = ()
    """What the processes added to the sum beside the scores."""

    sample_losses: tuple[Tensor, ...] = ()
    """[b] each: summed losses of this process's samples, micro-batch by micro-batch; empty before the last
    pipeline stage."""

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
        *,
        run: Path,
        stop_requests: StopRequests,
        watchdog: Watchdog,
    ) -> None:
        """Take what a step needs; `run` is the run's folder."""
        self.recipe = recipe
        self.curriculum = Curriculum(recipe)
        self.model = model
        self.optimizer = optimizer
        self.samples = samples
        self.layouts = layouts
        self.ranks = ranks
        self.run = run
        self.stop_requests = stop_requests
        self.watchdog = watchdog
        self.skips = SkipPolicy(recipe.faults)
        self.prefetch = Prefetch(
            samples,
            ranks.data_parallel_rank,
            ranks.data_parallel_size,
            [layout.micro_batch_size for layout in layouts],
            recipe.data.prefetch_micro_batches,
        )
        self._has_stepped = False
        self._stage: int | None = None

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must remember beside tensors, as plain JSON; the same on every process."""
        return {"skips": self.skips.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up the state of a checkpoint."""
        self.skips.load_state(state.get("skips", {}))

    def train_step(self, step: int) -> StepResult:
        """Take the 0-based step `step`: forward and backward over the global batch, judge, clip, update.

        Raises:
            SkippedStepsError: too many steps in a row had to be skipped.
        """
        position = self.curriculum.at(step)
        layout = self.layouts[position.index]
        if self._stage != position.index:
            self._stage = position.index
            set_recompute(self.model, position.stage)
        rate = learning_rate(self.recipe, step)
        set_learning_rate(self.optimizer, self.recipe, rate)
        self.model.zero_grad_buffer()
        self.optimizer.zero_grad()

        scores = run_micro_batches(
            self.model,
            self._micro_batches(step, position.seq_length),
            seq_length=position.seq_length,
            micro_batch_size=layout.micro_batch_size,
            num_microbatches=layout.num_microbatches,
            before_each=partial(self._begin_micro_batch, step),
            votes=self.stop_requests.votes(),
        )
        grad_norm = None
        reason = self.skips.judge(scores.loss, None)
        if reason is None:
            grad_norm = prepare_gradients(self.optimizer)
            reason = self.skips.judge(scores.loss, grad_norm)
        if reason is None and grad_norm is not None:
            update_weights(self.optimizer, self.recipe.optimizer.clip_grad, grad_norm)
            self.skips.took(grad_norm)
        elif reason is not None:
            self._skip(step, reason, scores, grad_norm)
        self._has_stepped = True
        return StepResult(
            loss=scores.mean_loss,
            masked_accuracy=scores.accuracy,
            learning_rate=rate,
            grad_norm=math.nan if grad_norm is None else grad_norm,
            scored_tokens=int(scores.tokens),
            skipped=reason,
            stop=self.stop_requests.decided(scores.votes),
        )

    def _skip(self, step: int, reason: str, scores: Scores, grad_norm: float | None) -> None:
        """Leave the weights as they are, on all processes alike; the next step clears the gradients."""
        self.skips.skip()
        told = log_skip(
            self.run,
            self.samples,
            self.ranks,
            step=step,
            reason=reason,
            figures={"loss": scores.mean_loss, "grad_norm": grad_norm},
            sample_losses=scores.sample_losses,
        )
        if self.ranks.is_first:
            say(f"WARNING: step {step + 1} was skipped: {reason}; {told}")
        self.skips.refuse_endless(step, reason)

    def _begin_micro_batch(self, step: int, micro_batch: MicroBatch) -> None:
        self.watchdog.enter("step" if self._has_stepped else "start", step)
        seed_random_streams(self.recipe.seed, step, micro_batch.first_sample)

    def _micro_batches(self, step: int, seq_length: int) -> Iterator[MicroBatch]:
        rate = self.recipe.masking_probability(self.curriculum.at(step).index)
        slots = scored_slots(rate, seq_length)
        for numbers, samples in self.prefetch.step(step):
            yield to_device(samples, int(numbers[0]), slots)


def prepare_gradients(optimizer: MegatronOptimizer) -> float:
    """Copy the reduced gradients to the optimizer's own and return their norm over all processes."""
    optimizer.prepare_grads()
    return float(optimizer.get_grad_norm() or 0.0)


def update_weights(optimizer: MegatronOptimizer, clip_grad: float, grad_norm: float) -> None:
    """Clip prepared gradients and apply them.

    What `optimizer.step` of megatron-core 0.16.1 to 0.19.2 does behind `prepare_gradients`; called whole it would
    compute the norm a second time, and apply whatever it finds: bf16 has no loss scaler to refuse it.
    """
    if clip_grad > 0:
        for part in getattr(optimizer, "chained_optimizers", [optimizer]):
            parameters = part.get_parameters()
            if parameters:
                clip_grad_by_total_norm_fp32(parameters, max_norm=clip_grad, total_norm=grad_norm)
    optimizer.step_with_ready_grads()


def run_micro_batches(
    model: DistributedDataParallel,
    micro_batches: Iterator[MicroBatch],
    *,
    seq_length: int,
    micro_batch_size: int,
    num_microbatches: int,
    before_each: Callable[[MicroBatch], None] | None = None,
    forward_only: bool = False,
    votes: Sequence[float] = (),
) -> Scores:
    """Run Megatron's pipeline schedule over this process's micro-batches and add up the scores of all.

    `votes` are further numbers of this process to be added up over all of them.

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
    loss, correct, tokens, *voted = sum_over_processes([*mine, *votes])
    return Scores(loss, correct, tokens, tuple(voted), tuple(s["sample_losses"] for s in sums))


def _sum_loss(weights: Tensor, output: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return the summed loss (what is differentiated), the scored tokens, and the figures to report."""
    loss, correct = output  # [b, m] each
    of_samples = (loss.float() * weights).sum(1)  # [b]
    total = of_samples.sum()
    tokens = weights.sum()
    report = {
        "loss": total.detach().double(),
        "correct": (correct * weights).sum().double(),
        "tokens": tokens.double(),
        "sample_losses": of_samples.detach(),
    }
    return total, tokens.to(torch.int), report
