"""The distributed optimizer's gathered state, with the padding between buckets that megatron-core forgets.

`DistributedOptimizer.get_parameter_state_dp_zero` gathers master weights and moments without the padding between
the buckets of a buffer, and `sharded_param_state_fully_reshardable` cuts parameters out of them by positions that
count it (megatron-core 0.16.1 and 0.19.2, there marked "indicates a bug"). With more than one bucket a checkpoint
holds, without an error, other numbers than the optimizer's: at PP > 1 with tied embeddings, which have a bucket of
their own, and wherever gradients are reduced while others are still computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from megatron.core.optimizer import MegatronOptimizer


@contextmanager
def padding_between_buckets(optimizer: MegatronOptimizer) -> Iterator[None]:
    """Let every distributed optimizer inside gather its state at the positions of its buffers."""
    parts = [part for part in _parts(optimizer) if hasattr(part, "get_parameter_state_dp_zero")]
    for part in parts:
        part.get_parameter_state_dp_zero = partial(_padded, part, part.get_parameter_state_dp_zero)
    try:
        yield
    finally:
        for part in parts:
            del part.get_parameter_state_dp_zero  # what shows again is the method of its class


def begin_state(optimizer: MegatronOptimizer) -> None:
    """Make the moments (zeros) of an optimizer that has taken no step yet, which megatron-core cannot save."""
    for part in _parts(optimizer):
        if part.optimizer is not None and not part.optimizer.state and part.init_state_fn is not None:
            part.init_state_fn(part.optimizer, part.config)
            for group in part.optimizer.param_groups:
                group.setdefault("step", 0)


def _parts(optimizer: Any) -> list[Any]:
    return list(getattr(optimizer, "chained_optimizers", [optimizer]))


def _padded(part: Any, gather: Any, *arguments: Any, **options: Any) -> Any:
    state = gather(*arguments, **options)
    if state is None:  # a process that gathers nothing
        return None
    for number, buffer in enumerate(part.buffers):
        for tensors in state[number].values():
            for key, tensor in tensors.items():
                if isinstance(tensor, torch.Tensor) and len(buffer.buckets) > 1:
                    tensors[key] = _spread(tensor, buffer)
    return state


def _spread(tensor: torch.Tensor, buffer: Any) -> torch.Tensor:
    """Move each bucket's part of a flat tensor to where the bucket begins in its buffer."""
    spread = tensor.new_zeros(buffer.numel)
    start = 0
    for bucket in buffer.buckets:
        size = bucket.numel_unpadded
        spread[bucket.offset : bucket.offset + size] = tensor[start : start + size]
        start += size
    return spread
