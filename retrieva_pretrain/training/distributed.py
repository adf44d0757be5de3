"""The processes of a run: joining them, and the sums they share."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed
from torch._C._distributed_c10d import HashStore

from retrieva_pretrain import platform
from retrieva_pretrain.curriculum.hashing import key_of
from retrieva_pretrain.errors import CorpusError, RetrievaError
from retrieva_pretrain.recipe.schema import Recipe

# The watchdog acts first: it says more than a collective that times out.
_BEHIND_WATCHDOG = timedelta(minutes=2)


@dataclass(frozen=True)
class Ranks:
    """Where this process stands among the others."""

    rank: int
    world_size: int
    data_parallel_rank: int
    data_parallel_size: int

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes what is written once."""
        return self.rank == 0


def initialize(recipe: Recipe) -> Ranks:
    """Join the processes of the run and divide them into Megatron's groups.

    Under torchrun its environment is used; started plainly, the process is a run of one.
    """
    machine = platform.current()
    if recipe.deterministic:
        machine.make_deterministic()
    machine.prepare(int(os.environ.get("LOCAL_RANK", "0")))
    alone: dict[str, Any] = {} if "RANK" in os.environ else {"store": HashStore(), "rank": 0, "world_size": 1}
    longest = timedelta(seconds=max(recipe.faults.step_timeout, recipe.faults.pause_timeout))
    dist.init_process_group(
        machine.distributed_backend,
        timeout=longest + _BEHIND_WATCHDOG,
        device_id=machine.process_group_device(),
        **alone,
    )
    return divide(recipe)


def divide(recipe: Recipe) -> Ranks:
    """Divide processes that have joined into the groups of a recipe's layout."""
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=recipe.parallelism.tensor_model_parallel_size,
        pipeline_model_parallel_size=recipe.parallelism.pipeline_model_parallel_size,
    )
    model_parallel_cuda_manual_seed(recipe.seed)
    return Ranks(
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        data_parallel_rank=parallel_state.get_data_parallel_rank(),
        data_parallel_size=parallel_state.get_data_parallel_world_size(),
    )


_left_after_failure = threading.Event()


def shut_down() -> None:
    """Leave the process group; does nothing if none was joined, or if it was left after a failure."""
    if dist.is_initialized() and not _left_after_failure.is_set():
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()


def leave_after_failure(deadline: float = 30.0) -> None:
    """Leave the process group although other ranks may sit in a collective, within `deadline` seconds.

    Under NCCL, `destroy_process_group` can wait for collectives that will never end, so its communicators are aborted.
    Whatever still waits after two thirds of the time is left behind; if it also keeps the process from ending, SIGALRM
    ends it after the rest: nothing in Python runs any more when the C++ libraries are torn down.
    """
    if not dist.is_initialized():
        return
    _left_after_failure.set()
    leaving = threading.Thread(target=_abandon, name="leave", daemon=True)
    leaving.start()
    leaving.join(deadline * 2 / 3)
    if leaving.is_alive():
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, max(deadline / 3, 1e-3))


def _abandon() -> None:
    # The error that is on its way says more than what goes wrong here.
    with suppress(Exception):
        platform.current().abandon_process_group()


def seed_random_streams(seed: int, step: int, first_sample: int) -> None:
    """Seed every random stream for one micro-batch, from its place in the run alone.

    The pipeline rank is part of the key; megatron-core adds the tensor rank inside the model-parallel region.
    Random states are therefore never checkpointed.
    """
    stage = parallel_state.get_pipeline_model_parallel_rank()
    # Two bits are left free: megatron-core adds its own offsets to the seed.
    key = int(key_of(seed, "dropout", step, first_sample, stage)) & ((1 << 62) - 1)
    torch.manual_seed(key)
    model_parallel_cuda_manual_seed(key)


def sum_over_processes(values: list[float]) -> list[float]:
    """Add up one list of numbers over all processes, in double precision; all get the sums."""
    machine = platform.current()
    tensor = machine.send(values)
    dist.all_reduce(tensor)
    return machine.read(tensor)


def largest_of_processes(value: float) -> float:
    """Return the largest of the processes' numbers; all get it."""
    machine = platform.current()
    tensor = machine.send([value])
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return machine.read(tensor)[0]


def first_problem(mine: str | None) -> str | None:
    """Return what the first of the processes that met a problem says of it; None where none did. The same on all."""
    problems: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(problems, mine)
    return next((problem for problem in problems if problem is not None), None)


def counts_in_sums() -> bool:
    """Whether this process's figures enter sums over all processes: once per data-parallel rank.

    Only the last pipeline stage knows the loss, and its tensor-parallel ranks all know the same one.
    """
    return bool(
        parallel_state.is_pipeline_last_stage() and parallel_state.get_tensor_model_parallel_rank() == 0
    )


def tell_once(error: Exception) -> None:
    """Print an error that people can mend, unless another process has told the same one.

    At once, by whichever process meets it: the others end soon because this one does, and have less to say.
    """
    if not isinstance(error, RetrievaError):
        return
    error.was_told = True
    try:
        store = dist.distributed_c10d._get_default_store()
        told_before = store.add(f"told/{key_of(str(error))}", 1) > 1
    except RuntimeError:  # the process that holds the store is gone
        told_before = False
    if not told_before:
        sys.stderr.write(f"retrieva: {error}\n")
        sys.stderr.flush()


def first_then_others(make_files: Callable[[], None]) -> None:
    """Let the first process make files, then all others look for them, and make what their node lacks.

    On nodes that share no file system each makes its own. There a lock on the file chooses the process; on a
    shared file system without locks it is the order that keeps the processes from writing all at once.

    Raises:
        CorpusError: on all processes, where the first one could not make the files.
    """
    problem = None
    if dist.get_rank() == 0:
        try:
            make_files()
        except CorpusError as error:
            problem = str(error)
    problem = from_first(problem)
    if problem is not None:
        raise CorpusError(problem)
    if dist.get_rank() != 0:
        make_files()


T = TypeVar("T")


def from_first(value: T) -> T:
    """Return the first process's value on all of them, so that they decide alike."""
    box = [value]
    dist.broadcast_object_list(box, src=0, device=platform.current().device())
    return box[0]
