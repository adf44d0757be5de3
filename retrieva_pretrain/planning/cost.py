"""How long a run takes at an MFU that the user assumes (`--mfu`). Without one, `throughput.py` models the time.

MFU is the share of the device's dense BF16 peak that model operations make of the wall time. Others report 23 to 25 %
(ModernBERT-base on H100), 41 to 48 % (Megatron-LM's README, 2 B parameters and more at length 4,096) and about 55 % (NeMo's
4 B BERT on A100). What recomputation repeats is added to the time.
"""

from __future__ import annotations

from dataclasses import dataclass

from retrieva_pretrain.planning.flops import FlopCount
from retrieva_pretrain.recipe.schema import Recipe, Stage

MFU_RANGE = (0.25, 0.45)


@dataclass(frozen=True)
class Times:
    """Seconds of wall time."""

    expected: float
    shortest: float
    longest: float
    """Ends of a range that is an allowance, not a measurement."""


def recomputed_flops(flops: FlopCount, stage: Stage, layers: int) -> float:
    """Return the operations of one sample that recomputation repeats: the forward pass of what is not kept."""
    if stage.recompute_granularity == "selective":
        return flops.attention
    if stage.recompute_granularity == "full":
        again = min(stage.recompute_num_layers or layers, layers) / layers
        return again * (flops.body + flops.attention)
    return 0.0


def bubble(pipeline_size: int, num_microbatches: int) -> float:
    """Return the idle share that pipeline stages add to a step, waiting for each other at its ends.

    (p - 1) / m, Narayanan et al. (2021).
    """
    return (pipeline_size - 1) / num_microbatches


def stage_seconds(
    recipe: Recipe,
    index: int,
    flops: FlopCount,
    gpus: int,
    peak_tflops: float,
    mfu: float,
    num_microbatches: int,
) -> float:
    """Return the wall time of a stage at an MFU; evaluations and checkpoints come on top."""
    stage = recipe.curriculum[index]
    pipeline = recipe.parallelism.pipeline_model_parallel_size
    of_gpu = recipe.model.num_layers // pipeline
    of_sample = flops.training + recomputed_flops(flops, stage, of_gpu)
    operations = of_sample * recipe.global_batch_size * stage.train_iters
    return operations / (gpus * peak_tflops * 1e12 * mfu) * (1 + bubble(pipeline, num_microbatches))
