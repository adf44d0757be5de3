"""Recipe -> Megatron's optimizer (Adam with decoupled weight decay, fp32 master weights, sharded states)."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer, OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.optimizer.optimizer import Float16OptimizerWithFloat16Params
from torch import Tensor

from retrieva_pretrain.model.build import DTYPES
from retrieva_pretrain.model.gradients import optimizer_parts
from retrieva_pretrain.recipe.schema import Recipe


def build_optimizer(recipe: Recipe, model: DistributedDataParallel) -> MegatronOptimizer:
    """Build the optimizer. Biases and norms carry `wd_mult` 0, so weight decay leaves them alone."""
    settings = recipe.optimizer
    optimizer = get_megatron_optimizer(
        OptimizerConfig(
            optimizer="adam",
            lr=settings.lr,
            min_lr=settings.min_lr,
            weight_decay=settings.weight_decay,
            adam_beta1=settings.adam_beta1,
            adam_beta2=settings.adam_beta2,
            adam_eps=settings.adam_eps,
            clip_grad=settings.clip_grad,
            bf16=recipe.precision == "bf16",
            params_dtype=DTYPES[recipe.precision],
            use_distributed_optimizer=recipe.parallelism.use_distributed_optimizer,
            overlap_param_gather=recipe.parallelism.overlap_param_gather,
        ),
        [model],
    )
    for part in optimizer_parts(optimizer):
        _write_weights_in_few_kernels(part)
    return optimizer


def set_learning_rate(optimizer: MegatronOptimizer, recipe: Recipe, learning_rate: float) -> None:
    """Put the step's learning rate, and the weight decay with its multiplier, into every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get("lr_mult", 1.0)
        group["weight_decay"] = recipe.optimizer.weight_decay * group.get("wd_mult", 1.0)


def _write_weights_in_few_kernels(part: Any) -> None:
    """Let an optimizer round its fp32 weights into the model's by one multi-tensor copy.

    megatron-core (0.16.1 and 0.19.2) copies tensor by tensor, some hundreds of kernels that the device waits for one by
    one at the end of a step. The fp32 optimizer updates the model's own weights and copies nothing.
    """
    # The same tensors for the optimizer's life: found at the first step.
    pairs: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def write() -> None:
        if not pairs:
            pairs.extend(_sharded_weights(part) if is_sharded else _whole_weights(part))
        if pairs:
            torch._foreach_copy_([model for model, _ in pairs], [main for _, main in pairs])

    is_sharded = isinstance(part, DistributedOptimizer)
    if is_sharded or isinstance(part, Float16OptimizerWithFloat16Params):
        part._copy_main_params_to_model_params = write


def _sharded_weights(part: Any) -> list[tuple[Tensor, Tensor]]:
    """Return this process's shards: where each lies in the buffer that is gathered, and its fp32 weights."""
    if part.is_stub_optimizer:
        return []
    pairs = []
    for mains, models in (
        (part.shard_fp32_from_float16_groups, part.model_float16_groups),
        (part.shard_fp32_groups, part.model_fp32_groups),
    ):
        for main_group, model_group in zip(mains, models, strict=True):
            for main, model in zip(main_group, model_group, strict=True):
                range_in_bucket = part._get_model_param_range_map(model)["gbuf_world_in_bucket"]
                buffer, _, bucket = part.model_param_gbuf_map[model]
                weights = part.buffers[buffer].buckets[bucket].param_data.view(-1)
                pairs.append((weights[range_in_bucket.start : range_in_bucket.end], main))
    return pairs


def _whole_weights(part: Any) -> list[tuple[Tensor, Tensor]]:
    if part.is_stub_optimizer:
        return []
    return list(zip(*part._get_model_and_main_params_data_float16(), strict=True))
