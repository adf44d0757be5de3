"""What a save needs on the device while no step runs, by formula."""

from __future__ import annotations


def gather_bytes(parameters: int, data_parallel_size: int, is_distributed: bool) -> int:
    """Return the bytes on one GPU, at most, while a distributed optimizer's states are gathered for a checkpoint.

    One state at a time (fp32 weights, then each of Adam's moments): this process's share, copied into one piece, and
    the whole that is gathered from all data-parallel processes: 4 (1 + 1 / data_parallel_size) bytes per parameter.
    An optimizer that is not distributed gathers nothing.

    Args:
        parameters: on one GPU.
        data_parallel_size: processes that share the optimizer's states.
        is_distributed: `parallelism.use_distributed_optimizer`.
    """
    if not is_distributed:
        return 0
    return 4 * (parameters + -(-parameters // data_parallel_size))
