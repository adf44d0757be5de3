"""One optimizer step, readable from top to bottom.

The host waits for the device once in a step: when it reads the figures that decide whether the step is taken. All else
is queued, so that the device has the next step's forward passes to do while the host judges this one's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from retrieva_pretrain import platform
from retrieva_pretrain.curriculum.schedule import learning_rate
from retrieva_pretrain.curriculum.stages import Curriculum
from retrieva_pretrain.data.batches import TrainingSamples
from retrieva_pretrain.data.prefetch import Prefetch
from retrieva_pretrain.model.gradients import clip_gradients, squared_norms
from retrieva_pretrain.model.optimizer import set_learning_rate
from retrieva_pretrain.model.recompute import set_recompute
from retrieva_pretrain.recipe.layout import StageLayout, scored_slots
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.training.batch import MicroBatch, host_batch, to_device
from retrieva_pretrain.training.distributed import Ranks, counts_in_sums, seed_random_streams
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

    writing: int = 0
    """Processes that were still writing a checkpoint when the step began."""


@dataclass
class Scores:
    """Sums over scored tokens."""

    loss: float
    correct: float
    tokens: float

    votes: tuple[float, ...] = ()
    """What the processes added to the sum beside the scores."""

    sample_losses: tuple[Tensor, ...] = ()
    """[b] each, on the device: summed losses of this process's samples, micro-batch by micro-batch; empty before the
    last pipeline stage."""

    grad_norm: float | None = None
    """Norm of the gradient over all processes, where it was asked for."""

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
            self._host_batches, self.curriculum.total_steps, recipe.data.prefetch_micro_batches
        )
        self.before_micro_batch: Callable[[int, int, int], None] | None = None
        """Called with the 0-based step, the micro-batch's number in it, and how many there are; for a profiler."""

        self.is_writing: Callable[[], bool] = lambda: False
        """Whether this process is still writing a checkpoint; all processes learn of it in the sum of each step."""

        self._has_stepped = False
        self._stage: int | None = None
        self._micro_batch = 0

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
        self._micro_batch = 0

        scores = run_micro_batches(
            self.model,
            map(to_device, self.prefetch.step(step)),
            seq_length=position.seq_length,
            micro_batch_size=layout.micro_batch_size,
            num_microbatches=layout.num_microbatches,
            before_each=partial(self._begin_micro_batch, step),
            votes=[*self.stop_requests.votes(), float(self.is_writing())],
            optimizer=self.optimizer,
        )
        # The norm of gradients of a loss that is not finite says nothing.
        grad_norm = scores.grad_norm if math.isfinite(scores.loss) else None
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
            stop=self.stop_requests.decided(scores.votes[:-1]),
            writing=int(scores.votes[-1]),
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
        if self.before_micro_batch is not None:
            count = self.layouts[self.curriculum.at(step).index].num_microbatches
            self.before_micro_batch(step, self._micro_batch, count)
        self._micro_batch += 1
        seed_random_streams(self.recipe.seed, step, micro_batch.first_sample)

    def _host_batches(self, step: int) -> Iterator[MicroBatch]:
        """Make this process's micro-batches of a step, in host memory; runs in the thread that works ahead."""
        position = self.curriculum.at(step)
        slots = scored_slots(self.recipe.masking_probability(position.index), position.seq_length)
        ranks, size = self.ranks, self.layouts[position.index].micro_batch_size
        for numbers, samples in self.samples.micro_batches(
            step, ranks.data_parallel_rank, ranks.data_parallel_size, size
        ):
            yield host_batch(samples, int(numbers[0]), slots)


def prepare_gradients(optimizer: MegatronOptimizer) -> float:
    """Copy the reduced gradients to the optimizer's own and return their norm over all processes."""
    optimizer.prepare_grads()
    return _add_up(platform.current().send([]), optimizer)[-1]


def update_weights(optimizer: MegatronOptimizer, clip_grad: float, grad_norm: float) -> None:
    """Clip prepared gradients and apply them.

    What `optimizer.step` of megatron-core 0.16.1 to 0.19.2 does behind `prepare_gradients`; called whole it would
    compute the norm a second time, and apply whatever it finds: bf16 has no loss scaler to refuse it.
    """
    if clip_grad > 0:
        clip_gradients(optimizer, clip_grad, grad_norm)
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
    optimizer: MegatronOptimizer | None = None,
) -> Scores:
    """Run Megatron's pipeline schedule over this process's micro-batches and add up the scores of all.

    Waits for the device once, at the end. `votes` are further numbers of this process to be added up over all of them.

    Gradients, unless `forward_only`, are left reduced in the model's buffers, divided by the scored tokens of
    the global batch. With an `optimizer` they are copied to its own, and their norm is one of the scores.
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
            cu_seqlens=batch.cu_seqlens,
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
    machine = platform.current()
    mine = machine.send([0.0, 0.0, 0.0, *votes])
    if counts_in_sums():
        mine[:3] = torch.stack([s["figures"] for s in sums]).sum(0)
    if optimizer is not None:
        optimizer.prepare_grads()
    figures = _add_up(mine, optimizer)
    grad_norm = figures.pop() if optimizer is not None else None
    loss, correct, tokens, *voted = figures
    return Scores(
        loss, correct, tokens, tuple(voted), tuple(s["sample_losses"] for s in sums), grad_norm=grad_norm
    )


def _add_up(figures: Tensor, optimizer: MegatronOptimizer | None) -> list[float]:
    """Add float64 figures [n] on the device up over all processes and read them, with the gradient norm behind them.

    One sum over all processes, and another where the norm is not theirs: without a distributed optimizer those of
    one data-parallel rank hold the whole gradient. One read.
    """
    norms = [] if optimizer is None else squared_norms(optimizer)
    world_size = dist.get_world_size()
    everyones = [norm for group, norm in norms if dist.get_world_size(group) == world_size]
    others = [(group, norm) for group, norm in norms if dist.get_world_size(group) != world_size]
    summed = torch.cat([figures, torch.stack(everyones)]) if everyones else figures
    dist.all_reduce(summed)
    for group, norm in others:
        dist.all_reduce(norm, group=group)
    found = platform.current().read(torch.cat([summed, *(norm.reshape(1) for _, norm in others)]))
    if optimizer is None:
        return found
    return [*found[: len(figures)], sum(found[len(figures) :]) ** 0.5]


def _sum_loss(weights: Tensor, output: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return the summed loss (what is differentiated), the scored tokens, and the figures to report."""
    loss, correct = output  # [b, m] each
    of_samples = (loss.float() * weights).sum(1)  # [b]
    total = of_samples.sum()
    tokens = weights.sum()
    report = {
        "figures": torch.stack([total.detach(), (correct * weights).sum(), tokens]).double(),  # [3]
        "sample_losses": of_samples.detach(),
    }
    return total, tokens.to(torch.int), report
