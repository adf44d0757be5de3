"""How a tensor of Megatron's splits into transformers' tensors, and how those join again: views and copies, no numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from retrieva_pretrain.export.names import Entry
from retrieva_pretrain.recipe.sections import ModelConfig


def split(entry: Entry, tensor: Tensor, model: ModelConfig) -> list[Tensor]:
    """Split a Megatron tensor [rows, ...] into the tensors of `entry.hugging_face`, in that order; copies.

    Copies, because a file of safetensors takes no two views of one memory.
    """
    if entry.kind == "gate_up":
        return [half.clone() for half in tensor.chunk(2)]
    if entry.kind == "qkv":
        groups, width = model.num_query_groups, model.kv_channels
        by_group = tensor.unflatten(0, (groups, -1, width))  # [groups, queries + 2, width, ...]
        queries = by_group.shape[1] - 2
        parts = by_group.split([queries, 1, 1], dim=1)
        return [part.flatten(0, 2).clone() for part in parts]
    return [tensor.clone()]


def join(entry: Entry, tensors: Sequence[Tensor], model: ModelConfig) -> Tensor:
    """Undo `split`."""
    if entry.kind == "gate_up":
        return torch.cat(list(tensors))
    if entry.kind == "qkv":
        groups, width = model.num_query_groups, model.kv_channels
        return torch.cat([part.unflatten(0, (groups, -1, width)) for part in tensors], dim=1).flatten(0, 2)
    return tensors[0]


def shapes_there(entry: Entry, model: ModelConfig) -> list[tuple[int, ...]]:
    """Return the shapes of the tensors that an entry splits into."""
    rows, rest = entry.shape[0], entry.shape[1:]
    if entry.kind == "gate_up":
        return [(rows // 2, *rest)] * 2
    if entry.kind == "qkv":
        key = model.num_query_groups * model.kv_channels
        return [(rows - 2 * key, *rest), (key, *rest), (key, *rest)]
    return [entry.shape]
