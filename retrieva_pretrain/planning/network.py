"""What GPUs send each other in a step, and how long it takes where nothing else goes on.

Collectives are rings: of S bytes each GPU sends S (n - 1) / n for a gather or a reduce-scatter, twice that for an
all-reduce (Thakur et al., 2005). A ring inside one node runs at NVLink's speed; one that leaves it is bounded by the
node's adapters, which all groups of the node share. Bandwidths are taken at 80 %.
"""

from __future__ import annotations

from dataclasses import dataclass

from retrieva_pretrain.planning.hardware import INSIDE_NODE, Hardware
from retrieva_pretrain.planning.kernels import Shape
from retrieva_pretrain.planning.parameters import rank_parameters
from retrieva_pretrain.recipe.schema import Recipe

_REACHED = 0.8
_LATENCY = 20e-6
"""Seconds of one collective's beginning."""

_BUCKET = 40_000_000
"""Parameters that megatron-core reduces at a time where it overlaps, at least (1,000,000 for each data-parallel rank)."""


@dataclass(frozen=True)
class DataParallel:
    """Seconds of a step's collectives over the copies of the model."""

    reduce: float
    """Of the fp32 gradients."""

    gather: float
    """Of the updated weights; 0 without the distributed optimizer."""

    buckets: int

    def exposed(self, recipe: Recipe, forward: float, backward: float) -> float:
        """Return the seconds that a step waits, where one micro-batch takes so long forward and backward.

        Overlapped collectives hide behind the last backward and the next first forward pass, all but their last bucket.
        """
        sizes = recipe.parallelism
        reduce, gather = self.reduce, self.gather
        if sizes.overlap_grad_reduce:
            reduce = max(reduce - backward, reduce / self.buckets)
        if sizes.overlap_param_gather:
            gather = max(gather - forward, gather / self.buckets)
        return reduce + gather


def data_parallel(
    recipe: Recipe, padded_vocab_size: int, data_parallel_size: int, hardware: Hardware
) -> DataParallel:
    """Return the collectives of the GPU that holds the most parameters."""
    parameters = _most_parameters(recipe, padded_vocab_size)
    e = 2 if recipe.precision == "bf16" else 4
    tensor = recipe.parallelism.tensor_model_parallel_size
    of_gradients = _ring(4 * parameters, data_parallel_size, tensor, hardware)
    buckets = max(1, parameters // max(_BUCKET, 1_000_000 * data_parallel_size))
    if not recipe.parallelism.use_distributed_optimizer:
        return DataParallel(2 * of_gradients, 0.0, buckets)
    return DataParallel(of_gradients, _ring(e * parameters, data_parallel_size, tensor, hardware), buckets)


def _most_parameters(recipe: Recipe, padded_vocab_size: int) -> int:
    pipeline = recipe.parallelism.pipeline_model_parallel_size
    return max(rank_parameters(recipe, padded_vocab_size, rank) for rank in range(pipeline))


def of_layer(shape: Shape, hardware: Hardware) -> tuple[float, float]:
    """Return the seconds of one layer's tensor-parallel collectives, forward and backward.

    Each of the two halves of a layer sums its output over the GPUs forward and its input's gradient backward; sequence
    parallelism gathers and scatters instead, as many bytes, and gathers the inputs again for the weight gradients.
    """
    if shape.tensor == 1:
        return 0.0, 0.0
    moved = shape.element * shape.tokens * shape.hidden_size
    once = _ring(moved, shape.tensor, 1, hardware)
    return 4 * once, (6 if shape.sequence_parallel else 4) * once


def between_stages(shape: Shape, hardware: Hardware) -> float:
    """Return the seconds in which one micro-batch's hidden states reach the next pipeline stage."""
    moved = (
        shape.element * shape.tokens * shape.hidden_size / (shape.tensor if shape.sequence_parallel else 1)
    )
    return _LATENCY + moved / (min(INSIDE_NODE, hardware.between_nodes) * 1e9 * _REACHED)


def _ring(size: float, gpus: int, stride: int, hardware: Hardware) -> float:
    """Return the seconds of a gather or reduce-scatter of `size` bytes over so many GPUs, `stride` ranks apart."""
    if gpus == 1:
        return 0.0
    share = (gpus - 1) / gpus * size
    if gpus * stride <= hardware.node_size:
        return _LATENCY + share / (INSIDE_NODE * 1e9 * _REACHED)
    # The groups that lie between the strides send through the same adapters.
    return _LATENCY + share * min(stride, hardware.node_size) / (hardware.between_nodes * 1e9 * _REACHED)
