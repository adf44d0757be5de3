"""Where a run goes on: its newest checkpoint that is whole to the last byte, or other weights to begin with."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer

from retrieva_pretrain.errors import CheckpointError
from retrieva_pretrain.training import distributed
from retrieva_pretrain.training.checkpoint_files import (
    DamagedCheckpointError,
    find_corruption,
    read_description,
    share_of_files,
)
from retrieva_pretrain.training.distributed import Ranks
from retrieva_pretrain.training.run_folder import RunFolder, no_whole_checkpoint
from retrieva_pretrain.training.saying import say
from retrieva_pretrain.training.shards import load_shards, load_weights


@dataclass(frozen=True)
class Resumed:
    """Where a run stands when it starts."""

    checkpoint: Path | None
    """What was loaded; None for a run that begins."""

    step: int = 0
    state: dict[str, Any] = field(default_factory=dict)
    """What the checkpoint remembers beside tensors."""


def resume(
    folder: RunFolder,
    model: DistributedDataParallel,
    optimizer: MegatronOptimizer,
    ranks: Ranks,
    initial: Path | None = None,
) -> Resumed:
    """Load the newest whole checkpoint of a run; every process calls it and all load the same one.

    Damaged ones are passed over with a line each, and set aside once an older one is loaded. Where the run has no
    checkpoint, the weights of `initial` are loaded if given, and the run begins at step 0.

    Raises:
        CheckpointError: there are checkpoints, but none can be used; or `initial` is damaged.
    """
    if ranks.is_first:
        folder.clear_leftovers()
    # The first process looks, so that all judge the same ones.
    found = distributed.from_first(folder.checkpoints_by_age() if ranks.is_first else [])
    unusable: list[tuple[Path, str | None]] = []
    for path, damage in found:
        problem = damage or _corruption(path, ranks) or _load_problem(path, model, optimizer)
        if problem is not None:
            unusable.append((path, problem))
            if ranks.is_first:
                say(f"WARNING: checkpoint {path} is damaged: {problem}; taking the one before it")
            continue
        if ranks.is_first:
            for damaged, _ in unusable:
                folder.set_aside(damaged)
            folder.point_latest_to(path)
        description = read_description(path)
        dist.barrier()
        return Resumed(path, description["step"], description["state"])
    if unusable:
        raise no_whole_checkpoint(folder.checkpoints, unusable)
    if initial is not None:
        problem = _corruption(initial, ranks)
        if problem is not None:
            raise CheckpointError(f"init_from: {initial} is damaged: {problem}; take another checkpoint")
        load_weights(initial, model, optimizer)
    return Resumed(None)


def _corruption(path: Path, ranks: Ranks) -> str | None:
    """Read all files of a checkpoint, each process a share of them; returns what is wrong, the same on all."""
    try:
        names = share_of_files(path, ranks.rank, ranks.world_size)
        problem = find_corruption(path, names, _Progress(path, ranks).read)
    except DamagedCheckpointError as damage:
        problem = str(damage)
    return distributed.first_problem(problem)


def _load_problem(path: Path, model: DistributedDataParallel, optimizer: MegatronOptimizer) -> str | None:
    """Load a checkpoint; returns what any process met, the same on all."""
    problem = out_of_memory = None
    try:
        load_shards(path, model, optimizer)
    except Exception as error:  # megatron-core and torch raise whatever they stumble over
        versions = read_description(path)["versions"]
        problem = f"it cannot be loaded ({type(error).__name__}: {error}); it was saved with {versions}"
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            out_of_memory = f"{path}: out of memory while it was loaded ({error})"
    # Too little memory says nothing of the checkpoint, and another one is as large.
    out_of_memory = distributed.first_problem(out_of_memory)
    if out_of_memory is not None:
        raise MemoryError(out_of_memory)
    return distributed.first_problem(problem)


class _Progress:
    """Says how far the check of a large checkpoint is, every two seconds, for the first process's share of it."""

    def __init__(self, path: Path, ranks: Ranks) -> None:
        files = read_description(path)["files"]
        self.total = sum(files[name]["size"] for name in share_of_files(path, ranks.rank, ranks.world_size))
        self.name, self.done, self.is_heard = path.name, 0, ranks.is_first
        self.told = time.monotonic()

    def read(self, size: int) -> None:
        """Take note of a file that was read."""
        self.done += size
        if self.is_heard and time.monotonic() - self.told > 2:
            self.told = time.monotonic()
            say(f"checking {self.name}: {self.done / 1e9:.1f} of {self.total / 1e9:.1f} GB")
