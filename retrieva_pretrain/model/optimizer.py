"""Recipe -> Megatron's optimizer (Adam with decoupled weight decay, fp32 master weights, sharded states)."""

from __future__ import annotations

from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer, OptimizerConfig, get_megatron_optimizer

from retrieva_pretrain.model.build import DTYPES
from retrieva_pretrain.recipe.schema import Recipe


def build_optimizer(recipe: Recipe, model: DistributedDataParallel) -> MegatronOptimizer:
    """Build the optimizer. Biases and norms carry `wd_mult` 0, so weight decay leaves them alone."""
    settings = recipe.optimizer
    return get_megatron_optimizer(
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


def set_learning_rate(optimizer: MegatronOptimizer, recipe: Recipe, learning_rate: float) -> None:
    """Put the step's learning rate, and the weight decay with its multiplier, into every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get("lr_mult", 1.0)
        group["weight_decay"] = recipe.optimizer.weight_decay * group.get("wd_mult", 1.0)
