"""The tensors of a checkpoint: megatron-core's plan of who writes what, and the writing, without its processes.

megatron-core writes in forked processes that report through a manager process. A fork of a process with threads
and a CUDA context may hang, a writer that is killed leaves the run waiting for ever (0.16.1 joins a queue that
nobody will answer), and it outlives a trainer that is killed. Here the plan is megatron-core's and so is the code
that writes a file, but it runs in threads of the trainer: the interpreter is free while bytes are written and
hashed, errors come back as exceptions, and a killed trainer leaves nobody who writes.
"""

from __future__ import annotations

import copy
import inspect
import io
import os
import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.dist_checkpointing.core import CheckpointingConfig, save_config
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.serialization import get_default_load_sharded_strategy
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies import torch as torch_strategies
from megatron.core.dist_checkpointing.strategies.fully_parallel import (
    FullyParallelLoadStrategyWrapper,
    FullyParallelSaveStrategyWrapper,
)
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.utils import unwrap_model
from torch.distributed.checkpoint.api import CheckpointException

from data_prep.whole_files import sync_file
from retrieva_pretrain import platform
from retrieva_pretrain.errors import CheckpointError
from retrieva_pretrain.training.checkpoint_files import file_sum
from retrieva_pretrain.training.optimizer_shares import begin_state, own_shares

# The default sharding type of the distributed optimizer cannot be saved ("flattened_range is not supported",
# megatron-core 0.16.1 and 0.19.2); this one can, and loads at any other number of processes.
# Handed on as copies: megatron-core puts its process groups into it.
_SHARDING = {"distrib_optim_sharding_type": "fully_reshardable"}
_FORMAT = "torch_dist", 1
# Files, and threads that write them, of one process; megatron-core's default.
_FILES = 2
_COMMON = "common.pt"
_EXTRA = "_extra_state"


def sharded_state(
    model: DistributedDataParallel,
    optimizer: MegatronOptimizer,
    *,
    is_loading: bool,
    assembled: list[torch.Tensor] | None = None,
) -> dict[str, Any]:
    """Describe this process's shards of weights, master weights and Adam's moments to megatron-core.

    To save, parameters of which several processes own a piece are put together on one of them; `assembled` takes these.
    """
    weights = sharded_weights(model)
    if not is_loading:
        begin_state(optimizer)
    with own_shares(optimizer, [] if assembled is None else assembled):
        moments = optimizer.sharded_state_dict(weights, is_loading=is_loading, metadata=dict(_SHARDING))
    return {"model": weights, "optimizer": moments}


def sharded_weights(model: DistributedDataParallel) -> dict[str, Any]:
    """Describe this process's shards of the weights alone."""
    state: dict[str, Any] = unwrap_model(model).sharded_state_dict(metadata=dict(_SHARDING))
    return state


def load_shards(path: Path, model: DistributedDataParallel, optimizer: MegatronOptimizer) -> None:
    """Load a checkpoint into the model and the optimizer, whatever layout it was saved at."""
    state = _load(sharded_state(model, optimizer, is_loading=True), path)
    unwrap_model(model).load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])


def load_weights(path: Path, model: DistributedDataParallel, optimizer: MegatronOptimizer) -> None:
    """Load a checkpoint's weights alone; the optimizer takes them over as its master weights."""
    load_tensors(path, unwrap_model(model))
    optimizer.reload_model_params()


def load_tensors(path: Path, model: torch.nn.Module) -> None:
    """Load a checkpoint's weights into this process's part of a model.

    What layers keep beside tensors (`_extra_state`, scales of FP8) is left alone: it comes and goes with versions, and
    an imported checkpoint has none.

    Raises:
        CheckpointError: the model has other tensors than the checkpoint.
    """
    described: Any = model
    wanted = described.sharded_state_dict(metadata=dict(_SHARDING))
    tensors = {name: value for name, value in wanted.items() if not name.endswith(_EXTRA)}
    state = _load({"model": tensors}, path)
    left = model.load_state_dict(state["model"], strict=False)
    wrong = [name for name in (*left.missing_keys, *left.unexpected_keys) if not name.endswith(_EXTRA)]
    if wrong:
        raise CheckpointError(f"{path}: the model has other tensors, such as {wrong[0]}")


def _load(state: dict[str, Any], path: Path) -> dict[str, Any]:
    """Load what a state describes. Of what data-parallel processes all need, each reads a share and sends it to the others."""
    strategy, group = None, _sharing_group()
    if group is not None:
        # A copy: 0.16.1 hands out one object for all loads.
        reader = copy.copy(get_default_load_sharded_strategy(str(path)))
        reader.load = partial(_read_on_all, reader.load)
        strategy = FullyParallelLoadStrategyWrapper(reader, group)
    with _failures_as_errors():
        loaded: dict[str, Any] = dist_checkpointing.load(state, str(path), strategy)
    return loaded


def _sharing_group() -> dist.ProcessGroup | None:
    """Return the data-parallel ranks, which hold copies of the weights; None for one, or where no groups were made."""
    if not parallel_state.is_initialized():  # an import has no layout
        return None
    group: dist.ProcessGroup = parallel_state.get_data_parallel_group(with_context_parallel=True)
    return group if group.size() > 1 else None


def _read_on_all(read: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Read this rank's share; raise what any rank met on all of them, before they send each other what they read.

    All processes call it. megatron-core 0.19.2 reads without telling the others (`no_dist`): those that met nothing would wait
    in the exchange for one that never comes.
    """
    error: Exception | CheckpointException | None = None
    result = None
    try:
        result = read(*arguments, **options)
    except (Exception, CheckpointException) as met:
        error = met
    cause: BaseException | None = error
    if isinstance(error, CheckpointException):
        cause, _ = min(error.failures.items())[1]
    told: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(told, None if cause is None else f"{type(cause).__name__}: {_first_line(cause)}")
    failed = [rank for rank, problem in enumerate(told) if problem is not None]
    if not failed:
        return result
    # What all met torch has told all: its account has the right rank.
    if error is not None and len(failed) == len(told):
        raise error
    kind = MemoryError if isinstance(cause, MemoryError | torch.OutOfMemoryError) else RuntimeError
    raise kind(f"rank {failed[0]}: {told[failed[0]]}") from error


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")[:300]


@contextmanager
def _failures_as_errors() -> Iterator[None]:
    """Raise what torch's checkpointing met on any rank as an ordinary error, on all ranks.

    Its `CheckpointException` is no `Exception` (torch 2.6 to 2.13): who handles errors would not see it.
    """
    try:
        yield
    except CheckpointException as failed:
        rank, (error, _) = min(failed.failures.items())
        first = _first_line(error)
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            raise MemoryError(f"rank {rank}: {first}") from failed
        raise RuntimeError(f"rank {rank}: {type(error).__name__}: {first}") from failed


@dataclass
class ShardWriter:
    """This process's part of one checkpoint, copied to the host: nothing the run does any more changes it."""

    folder: Path
    writer: Any
    """megatron-core's FileSystemWriterAsync, which knows the plan."""

    buckets: list[Any]
    """(path, name, (bytes, tensors)) of each file."""

    metadata: Any
    """What all processes write together; on the first process only."""

    common: bytes | None
    """megatron-core 0.16.1's file of what is no tensor; on the first process only."""

    host_bytes: int = 0
    """Bytes of the tensors in host memory until they are written."""

    assembled_bytes: int = 0
    """Bytes of the device's memory that the parameters put together from several processes took."""

    def write(self) -> tuple[list[Any], dict[str, Any]]:
        """Write this process's files to the disk; runs in a thread.

        Returns megatron-core's record of what lies where, and the size and checksum of every file.

        Raises:
            OSError: a file cannot be written.
        """
        buckets, self.buckets = self.buckets, []
        with ThreadPoolExecutor(_FILES, thread_name_prefix="checkpoint") as pool:
            written = list(pool.map(self._write_file, buckets))
        sums = {name: entry for name, _, entry in written}
        if self.common is not None:
            sums[_COMMON] = _write_bytes(self.folder / _COMMON, self.common)
        return [record for _, records, _ in written for record in records], sums

    def finish(self, records: list[list[Any]]) -> dict[str, Any]:
        """Write what describes the files of all processes; the first process calls it, in a thread.

        Returns the size and checksum of the files it wrote.
        """
        self.writer.finish(self.metadata, records)
        save_config(CheckpointingConfig(*_FORMAT), str(self.folder))
        sums = {}
        for name in (".metadata", "metadata.json"):
            sync_file(self.folder / name)
            sums[name] = file_sum(self.folder / name)
        return sums

    def _write_file(self, bucket: Any) -> tuple[str, list[Any], dict[str, Any]]:
        results: queue.Queue[Any] = queue.Queue()
        counted: queue.Queue[Any] = queue.Queue()
        counted.put(0)
        transforms = [self.writer.transforms] if hasattr(self.writer, "transforms") else []
        filesystem_async.FileSystemWriterAsync.write_preloaded_data(
            transforms, 0, bucket, results, counted, True
        )
        _, records = results.get_nowait()
        if isinstance(records, Exception):
            raise records
        path, name, _ = bucket
        # Read back rather than summed on the way: it comes from the page cache, and vouches for what is there.
        return name, records, file_sum(Path(path))


def plan_shards(model: DistributedDataParallel, optimizer: MegatronOptimizer, folder: Path) -> ShardWriter:
    """Agree with the other processes on who writes what into a folder, and copy it to the host.

    All processes call it. Nothing is written.
    """
    assembled: list[torch.Tensor] = []
    state = sharded_state(model, optimizer, is_loading=False, assembled=assembled)
    return plan_state(state, folder, assembled)


def plan_state(state: dict[str, Any], folder: Path, assembled: Sequence[torch.Tensor] = ()) -> ShardWriter:
    """Do the same for any state of megatron-core's ShardedTensors; `assembled` are those that nobody else uses."""
    private = {tensor.untyped_storage().data_ptr() for tensor in assembled}
    owned = {address: storage for address, storage in _storages(state).items() if address not in private}
    # megatron-core would start a manager process for a queue that nothing is sent through here.
    filesystem_async._results_queue = queue.Queue()
    plan, common = _Plan(*_FORMAT, thread_count=_FILES), _keep_common_state()
    group = _sharing_group()
    # Of what data-parallel processes all hold, the weights, each writes a share.
    strategy = plan if group is None else FullyParallelSaveStrategyWrapper(plan, group)
    # 0.19.2 would ask for nvidia-resiliency-ext otherwise.
    options = (
        {"async_strategy": "mcore"}
        if "async_strategy" in inspect.signature(dist_checkpointing.save).parameters
        else {}
    )
    with _failures_as_errors():
        dist_checkpointing.save(
            state, str(folder), sharded_strategy=strategy, async_sharded_save=True, **options
        )
    writer = plan.writer
    buckets = writer.preload_tensors(writer.write_buckets or [], True)
    buckets = [
        (path, name, (data, [(item, _private(tensor, owned)) for item, tensor in tensors]))
        for path, name, (data, tensors) in buckets
    ]
    writer.write_buckets = None
    return ShardWriter(
        folder,
        writer,
        buckets,
        plan.metadata,
        common(),
        host_bytes=sum(
            platform.current().host_copy_bytes(tensor.nbytes)
            for _, _, (_, tensors) in buckets
            for _, tensor in tensors
        ),
        assembled_bytes=sum(tensor.nbytes for tensor in assembled),
    )


class _Plan(torch_strategies.TorchDistSaveShardedStrategy):  # type: ignore[misc]
    """Keeps what megatron-core hands to its own writers."""

    writer: Any
    metadata: Any

    def _get_save_and_finalize_callbacks(self, writer: Any, planned: Any, *rest: Any) -> Any:
        self.writer, self.metadata = writer, planned[1]
        return super()._get_save_and_finalize_callbacks(writer, planned, *rest)


def _keep_common_state() -> Callable[[], bytes | None]:
    """Make megatron-core 0.16.1 hand over what is no tensor instead of writing it; returns how to get it.

    It would write the file on the first process in the midst of the plan: were the disk full then, the others
    would wait for that process until the time limit of their collectives. Later versions treat it as a shard.
    """
    try:
        from megatron.core.dist_checkpointing.strategies.base import StrategyAction, register_default_strategy
        from megatron.core.dist_checkpointing.strategies.common import TorchCommonSaveStrategy
    except ImportError:
        return lambda: None
    kept: list[bytes] = []

    class KeepCommonState(TorchCommonSaveStrategy):  # type: ignore[misc]
        def save_common(self, common_state_dict: Any, checkpoint_dir: Any) -> None:
            if dist.get_rank() == 0:
                stream = io.BytesIO()
                torch.save(common_state_dict, stream)
                kept.append(stream.getvalue())

    register_default_strategy(StrategyAction.SAVE_COMMON, "torch", 1, KeepCommonState("torch", 1))
    return lambda: kept[0] if kept else None


def _storages(state: dict[str, Any]) -> dict[int, torch.UntypedStorage]:
    """The memory that the run itself goes on to change, by address; held, so that no address is used again."""
    tensors = (getattr(value, "data", None) for value in nested_values(state))
    found = (tensor.untyped_storage() for tensor in tensors if isinstance(tensor, torch.Tensor))
    return {storage.data_ptr(): storage for storage in found}


def _private(tensor: torch.Tensor, owned: dict[int, torch.UntypedStorage]) -> torch.Tensor:
    """Copy a host tensor, unless megatron-core has copied it already."""
    return tensor.clone() if tensor.untyped_storage().data_ptr() in owned else tensor


def _write_bytes(path: Path, content: bytes) -> dict[str, Any]:
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    return file_sum(path)
