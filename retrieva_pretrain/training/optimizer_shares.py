"""The distributed optimizer's state in a checkpoint: each data-parallel rank saves and loads its own share.

megatron-core's format `fully_reshardable` keeps master weights and moments in the shape of the model's parameters, so that
any layout loads any other's. To make it, megatron-core gathers the whole state on every rank (15.6 GB for 1.3 B parameters;
0.16.1 and 0.19.2). A rank owns a flat range of each bucket, though, and nearly all parameters lie within one rank's
range. Here the owner saves such a parameter; a parameter across a border is sent to one of its owners. The file is the same.

Positions come from the buffers themselves, padding between buckets included. megatron-core's gathering forgets that padding
(there marked "indicates a bug"): with more than one bucket its checkpoints hold other numbers than the optimizer's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import (
    ShardedStateDict,
    ShardedTensorFactory,
    is_main_replica,
)
from megatron.core.optimizer import MegatronOptimizer
from torch import Tensor

from retrieva_pretrain.model.gradients import optimizer_parts

_STATES = "param", "exp_avg", "exp_avg_sq"


@dataclass(frozen=True)
class Piece:
    """The elements `start` to before `stop` of a flat parameter, which one data-parallel rank owns."""

    rank: int
    start: int
    stop: int


@contextmanager
def own_shares(optimizer: MegatronOptimizer, assembled: list[Tensor]) -> Iterator[None]:
    """Let every distributed optimizer inside describe the state of this rank's parameters alone.

    Tensors that were put together from the pieces of several ranks are appended to `assembled`: they belong to the
    checkpoint, all others are the optimizer's own memory.
    """
    parts = [
        part for part in optimizer_parts(optimizer) if hasattr(part, "sharded_param_state_fully_reshardable")
    ]
    for part in parts:
        part.sharded_param_state_fully_reshardable = partial(_own_share, part, assembled)
    try:
        yield
    finally:
        for part in parts:
            del part.sharded_param_state_fully_reshardable  # what shows again is the method of its class


def begin_state(optimizer: MegatronOptimizer) -> None:
    """Make the moments (zeros) of an optimizer that has taken no step yet, which megatron-core cannot save."""
    for part in optimizer_parts(optimizer):
        if part.optimizer is not None and not part.optimizer.state and part.init_state_fn is not None:
            part.init_state_fn(part.optimizer, part.config)
            for group in part.optimizer.param_groups:
                group.setdefault("step", 0)


def share_out(sizes: list[tuple[int, int, int, int, int]], ranks: int) -> list[tuple[list[Piece], int]]:
    """Return, for each parameter, its pieces by rank, and the rank that saves it: the owner that has the least to save.

    Args:
        sizes: of each parameter (start, end) in its buffer, and (offset, numel) of its bucket with the bytes of one
            element; megatron-core divides a bucket evenly.
        ranks: data-parallel size.
    """
    pieces = [_pieces(start, end, offset, numel, ranks) for start, end, offset, numel, _ in sizes]
    weights = [(end - start) * width for start, end, _, _, width in sizes]
    spread = [number for number, found in enumerate(pieces) if len(found) > 1]
    # In the order of one bucket neighbours even out; with many buckets most parameters lie across borders, and the largest
    # come first. Neither is better for all models.
    orders = (spread, sorted(spread, key=lambda number: (-weights[number], number)))
    dealt = [_dealt(pieces, weights, order, ranks) for order in orders]
    savers, _ = min(dealt, key=lambda choice: max(choice[1]))
    return list(zip(pieces, savers, strict=True))


def _dealt(
    pieces: list[list[Piece]], weights: list[int], order: list[int], ranks: int
) -> tuple[list[int], list[int]]:
    """Return the saver of each parameter, those of several owners dealt out in an order, and what each rank saves."""
    savers, load = [found[0].rank for found in pieces], [0] * ranks
    for found, weight in zip(pieces, weights, strict=True):
        load[found[0].rank] += weight if len(found) == 1 else 0
    for number in order:
        saver = min((piece.rank for piece in pieces[number]), key=lambda rank: (load[rank], rank))
        savers[number] = saver
        load[saver] += weights[number]
    return savers, load


def _pieces(start: int, end: int, offset: int, numel: int, ranks: int) -> list[Piece]:
    """Cut the range [start, end) of a buffer where the even shares of its bucket meet."""
    share = numel // ranks
    first, last = (start - offset) // share, (end - 1 - offset) // share
    return [
        Piece(
            rank,
            max(start, offset + rank * share) - start,
            min(end, offset + (rank + 1) * share) - start,
        )
        for rank in range(first, last + 1)
    ]


def _own_share(
    part: Any,
    assembled: list[Tensor],
    model_sharded_state_dict: ShardedStateDict,
    is_loading: bool = False,
    metadata: dict[str, Any] | None = None,
) -> dict[int, dict[str, Any]]:
    """Stand in for `DistributedOptimizer.sharded_param_state_fully_reshardable`, for this rank's parameters.

    Returns, by the parameter's number in the buffers, its state as ShardedTensors: to save, of the parameters that this
    rank saves; to load, of all of which it owns a piece.
    """
    described = {sharded.data: sharded for sharded in nested_values(model_sharded_state_dict)}
    parameters = [(buffer, param) for buffer in part.buffers for param in buffer.param_index_map]
    sizes = []
    for buffer, param in parameters:
        start, end, bucket = buffer.param_index_map[param]
        bucket = buffer.buckets[bucket]
        sizes.append((start, end, bucket.offset, bucket.grad_data.numel(), 4 * len(_STATES)))
    group = part.data_parallel_group
    state: dict[int, dict[str, Any]] = {}
    for number, ((_, param), (pieces, saver)) in enumerate(
        zip(parameters, share_out(sizes, group.size()), strict=True)
    ):
        sharded, is_saver = described[param], saver == group.rank()
        # Ranks of a tensor-parallel group hold copies of some parameters: the first of them saves.
        is_main = is_main_replica(_replica(sharded, is_main=True))
        owns = any(piece.rank == group.rank() for piece in pieces)
        if is_loading and owns:
            flat = {name: torch.empty(param.numel(), dtype=torch.float32, device="cpu") for name in _STATES}
        elif is_main and owns and not is_loading:
            flat = _collected(part, param, pieces, saver, assembled)
        else:
            continue
        if is_loading or is_saver:
            state[number] = {
                name: _described(sharded, name, tensor, is_main=is_saver) for name, tensor in flat.items()
            }
    return state


def _collected(
    part: Any, param: Any, pieces: list[Piece], saver: int, assembled: list[Tensor]
) -> dict[str, Tensor]:
    """Return the flat states of a parameter on the rank that saves it, after its other owners have sent their pieces.

    All owners of the parameter call it, in the same order of parameters; on those that send, it returns nothing.
    """
    states = part._get_main_param_and_optimizer_states(param)
    mine = {name: states[name].detach().view(-1) for name in _STATES}
    if len(pieces) == 1:
        return mine
    group = part.data_parallel_group
    me, peers = group.rank(), dist.get_process_group_ranks(group)
    if me != saver:
        sends = [dist.P2POp(dist.isend, mine[name].contiguous(), peers[saver], group) for name in _STATES]
        _wait(sends)
        return {}
    flat = {
        name: torch.empty(param.numel(), dtype=mine[name].dtype, device=mine[name].device) for name in _STATES
    }
    for piece in pieces:
        targets = [flat[name][piece.start : piece.stop] for name in _STATES]
        if piece.rank == me:
            for name, target in zip(_STATES, targets, strict=True):
                target.copy_(mine[name])
        else:
            _wait([dist.P2POp(dist.irecv, target, peers[piece.rank], group) for target in targets])
    assembled += flat.values()
    return flat


def _wait(operations: list[dist.P2POp]) -> None:
    for work in dist.batch_isend_irecv(operations):
        work.wait()


def _described(sharded: Any, name: str, flat: Tensor, *, is_main: bool) -> Any:
    """Describe a state as megatron-core does: where its parameter lies, under a key of its own."""
    changes: dict[str, Any] = {
        "key": f"optimizer.state.{name}.{sharded.key}",
        "data": flat.view(sharded.data.shape),
        "replica_id": _replica(sharded, is_main=is_main),
    }
    if not isinstance(sharded, ShardedTensorFactory):
        changes["dtype"] = flat.dtype
    return replace(sharded, **changes)


def _replica(sharded: Any, *, is_main: bool) -> tuple[int, ...]:
    """Return a parameter's replica number, the data-parallel rank in it replaced by 0 for the one that saves."""
    return (*sharded.replica_id[:-1], 0 if is_main else 1)
