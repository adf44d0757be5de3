"""What torch measures on the nodes: arithmetic, memory, communication, clocks."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from statistics import median
from typing import Any

import torch
import torch.distributed as dist

from retrieva_pretrain import platform

_SECONDS = 0.5
_CLOCK_ROUNDS = 5


def matmul_tflops() -> float:
    """Return the rate of a bf16 product of square matrices in 10^12 operations a second; 2 n^3 operations each."""
    machine = platform.current()
    n = 8192 if machine.name == "cuda" else 512
    a = torch.randn(n, n, dtype=torch.float32).to(machine.device(), torch.bfloat16)
    b = torch.randn(n, n, dtype=torch.float32).to(machine.device(), torch.bfloat16)
    return 2 * n**3 / _seconds_each(lambda: a @ b) / 1e12


def copy_gb_per_second() -> float:
    """Return the rate of a copy inside the device's memory in GB/s, what is read and what is written."""
    machine = platform.current()
    count = 2**28 if machine.name == "cuda" else 2**23
    source = torch.ones(count, dtype=torch.float32, device=machine.device())
    target = torch.empty_like(source)
    return 2 * source.nbytes / _seconds_each(lambda: target.copy_(source)) / 1e9


def all_reduce_gb_per_second(group: Any = None) -> float | None:
    """Return the bus bandwidth of an all-reduce in GB/s, 2 (n - 1) / n of the bytes a second; None for one process."""
    n = dist.get_world_size(group)
    if n < 2:
        return None
    machine = platform.current()
    tensor = torch.ones(
        2**26 if machine.name == "cuda" else 2**20, dtype=torch.float32, device=machine.device()
    )
    rounds = 10
    for _ in range(2):
        dist.all_reduce(tensor, group=group)
    machine.synchronize()
    started = time.perf_counter()
    for _ in range(rounds):
        dist.all_reduce(tensor, group=group)
    machine.synchronize()
    seconds = (time.perf_counter() - started) / rounds
    return 2 * (n - 1) / n * tensor.nbytes / seconds / 1e9


def node_group(local_world_size: int) -> Any:
    """Return the group of the processes on this node; every process must call this."""
    mine = None
    for first in range(0, dist.get_world_size(), local_world_size):
        ranks = list(range(first, first + local_world_size))
        group = dist.new_group(ranks, timeout=timedelta(minutes=5))
        mine = group if dist.get_rank() in ranks else mine
    return mine


def clock_offsets(group: Any) -> list[float]:
    """Return by how many seconds the clock of each process is before the median of all, as of one moment.

    The moment is the end of a barrier, which is one to within milliseconds.
    """
    rounds = []
    for _ in range(_CLOCK_ROUNDS):
        dist.barrier(group=group)
        times: list[float] = [0.0] * dist.get_world_size()
        dist.all_gather_object(times, time.time(), group=group)
        rounds.append(times)
    offsets = [[t - median(times) for t in times] for times in rounds]
    return [min((r[rank] for r in offsets), key=abs) for rank in range(len(rounds[0]))]


def _seconds_each(work: Callable[[], object]) -> float:
    """Return how long a piece of work takes, over about half a second of it."""
    machine = platform.current()
    work()
    machine.synchronize()
    started = time.perf_counter()
    work()
    machine.synchronize()
    rounds = max(1, min(1000, int(_SECONDS / max(time.perf_counter() - started, 1e-6))))
    started = time.perf_counter()
    for _ in range(rounds):
        work()
    machine.synchronize()
    return (time.perf_counter() - started) / rounds
