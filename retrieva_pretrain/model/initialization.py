"""The weights that a run begins with: the same for every layout.

megatron-core draws each process's weights from one stream in the order in which modules are built. Pipeline stages
then begin with other weights than one process does, and the two halves of SwiGLU are cut otherwise at every
tensor-parallel size. Here each tensor is drawn whole, from the seed and its global name, and each process takes
its part: the part that megatron-core's own checkpoints say it holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory
from torch import Tensor

from retrieva_pretrain.curriculum.hashing import key_of

# Layers whose result is added to the residual stream: their weights are smaller by sqrt(2 x layers), as in Megatron
# (`output_layer_init_method`), after GPT-2.
_INTO_RESIDUAL = ("self_attention.linear_proj.weight", "mlp.linear_fc2.weight")


@torch.no_grad()
def draw_initial_weights(model: torch.nn.Module, *, seed: int, std: float, num_layers: int) -> None:
    """Draw every matrix of this process's part of a model from a normal distribution, in place.

    Biases become 0; the weights of norms stay 1, as they are built. Tensors on the meta device are left alone.

    Args:
        model: a megatron-core model, unwrapped.
        seed: the recipe's.
        std: standard deviation (`init_method_std`).
        num_layers: of the whole model.
    """
    drawn: tuple[int, Tensor] | None = None
    for shard in sharded_tensors(model):
        layer, shape = (
            shard.global_offset[: shard.prepend_axis_num],
            shard.global_shape[shard.prepend_axis_num :],
        )
        if shard.data is None or shard.data.is_meta:
            continue
        if len(shape) < 2:
            if shard.key.endswith(
                "bias"
            ):  # without its own initialisation megatron-core leaves them as they come
                shard.data.zero_()
            continue
        key = key_of(seed, "initial weights", shard.key, *layer)
        if drawn is None or drawn[0] != key:  # SwiGLU's two halves are shards of one tensor
            scale = 1 / math.sqrt(2 * num_layers) if shard.key.endswith(_INTO_RESIDUAL) else 1.0
            generator = torch.Generator().manual_seed(key & ((1 << 63) - 1))
            drawn = key, torch.empty(shape).normal_(0.0, std * scale, generator=generator)
        mine = zip(shard.global_offset[shard.prepend_axis_num :], shard.local_shape, strict=True)
        part = drawn[1][tuple(slice(start, start + size) for start, size in mine)]
        shard.data.copy_(part.reshape(shard.data.shape))


def sharded_tensors(model: torch.nn.Module) -> Iterator[ShardedTensor]:
    """Yield this process's tensors of a model with their global names, shapes and offsets.

    `data` is a view of the parameter; layers carry their number in front of the offset (`prepend_axis_num`).
    """
    described: Any = model
    for entry in described.sharded_state_dict().values():
        if isinstance(entry, ShardedTensorFactory):
            yield from entry.build()
        elif isinstance(entry, ShardedTensor):
            yield entry
