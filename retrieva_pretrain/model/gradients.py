"""Gradients between the backward pass and the update: summed, divided, measured and clipped.

Each function does what one of megatron-core does, to the same tensors and over the same processes, without waiting
for the device and without a kernel for every tensor. Where neither Transformer Engine nor Apex is installed
megatron-core does both (0.16.1 and 0.19.2: `local_multi_tensor_l2_norm` reads one number of every tensor).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel
from megatron.core.distributed.finalize_model_grads import finalize_model_grads
from megatron.core.optimizer import MegatronOptimizer
from torch import Tensor

from retrieva_pretrain import platform


def finalize_gradients(
    model: list[DistributedDataParallel], num_tokens: Tensor | None = None, **options: Any
) -> None:
    """Add the gradients up over processes and divide them by the scored tokens of the global batch.

    Stands in for `finalize_model_grads`, whose `if num_tokens > 0` waits for the device (0.16.1; 0.19.2 divides as
    here).

    Args:
        model: the one chunk of this process.
        num_tokens: int scalar on the device, the tokens of this process's micro-batches; known on the last pipeline
            stage only. Without it nothing is divided. Holds the global number afterwards.
        options: handed on.
    """
    finalize_model_grads(model, None, **options)
    if num_tokens is None:
        return
    if parallel_state.get_pipeline_model_parallel_world_size() > 1:
        dist.broadcast(
            num_tokens,
            src=parallel_state.get_pipeline_model_parallel_last_rank(),
            group=parallel_state.get_pipeline_model_parallel_group(),
        )
    dist.all_reduce(num_tokens, group=parallel_state.get_data_parallel_group(with_context_parallel=True))
    # Where nothing was scored every gradient is zero, whatever it is divided by.
    scaling = 1.0 / num_tokens.clamp(min=1)
    for chunk in model:
        chunk.scale_gradients(scaling)


@torch.no_grad()
def squared_norms(optimizer: MegatronOptimizer) -> list[tuple[Any, Tensor]]:
    """Return this process's part of the squared gradient norm: float64 scalars on the device, with the process group
    over which each is to be added up.

    Which gradients count is megatron-core's choice: none twice that several tensor-parallel processes or two pipeline
    stages hold, and of a sharded optimizer this process's shards. As there each tensor's norm is taken in fp32, and
    the square of all of them; what follows is in double precision.
    """
    norms = []
    for part in optimizer_parts(optimizer):
        # Renamed in 0.19, where gradients may also be left out that have a norm of their own: this model has none.
        choose = getattr(part, "get_grads_for_grad_norm", None) or part.get_main_grads_for_grad_norm
        gradients = choose()
        if gradients:
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        else:
            norm = torch.zeros((), device=platform.current().device())
        norms.append((part.get_grad_stats_parallel_group(), (norm * norm).double()))
    return norms


@torch.no_grad()
def clip_gradients(optimizer: MegatronOptimizer, max_norm: float, grad_norm: float) -> None:
    """Scale the prepared gradients, whose norm over all processes is `grad_norm`, down to a norm of `max_norm`."""
    coefficient = max_norm / (grad_norm + 1e-6)  # of `clip_grad_by_total_norm_fp32`
    if coefficient >= 1.0:
        return
    for part in optimizer_parts(optimizer):
        gradients = [p.grad for p in part.get_parameters() if p.grad is not None]
        if gradients:
            torch._foreach_mul_(gradients, coefficient)


def optimizer_parts(optimizer: MegatronOptimizer) -> list[Any]:
    """Return the optimizers that megatron-core has chained, or the one that there is."""
    return list(getattr(optimizer, "chained_optimizers", [optimizer]))
