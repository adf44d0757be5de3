"""Distributed checkpoints that are whole or absent.

A checkpoint is written into a hidden folder, made durable, described by a `checkpoint.json` with the size of
every file, and renamed; only then does `latest` name it. Whatever instant a kill falls into, the folders
named `step_*` are complete. Tensors go through megatron-core's distributed checkpointing, so that a run can
go on with another number of processes.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.utils import unwrap_model

from data_prep.whole_files import sync_directory, write_whole
from retrieva_pretrain.errors import CheckpointError
from retrieva_pretrain.recipe.identity import differences
from retrieva_pretrain.training.distributed import Ranks, from_first

log = logging.getLogger(__name__)

DESCRIPTION = "checkpoint.json"
# The default sharding type of the distributed optimizer cannot be saved ("flattened_range is not supported",
# megatron-core 0.16.1 and 0.19.2); this one can, and loads at any other number of processes.
_SHARDING = {"distrib_optim_sharding_type": "fully_reshardable"}


class CheckpointFolder:
    """The `checkpoints/` of one run."""

    def __init__(self, folder: Path, identity: dict[str, Any], keep: int) -> None:
        self.folder = folder
        self.identity = identity
        self.keep = keep

    def path(self, step: int) -> Path:
        """Return the folder of the checkpoint after `step` steps."""
        return self.folder / f"step_{step:07d}"

    def newest(self) -> Path | None:
        """Return the newest whole checkpoint, or None. Damaged ones are passed over with a warning."""
        for candidate in sorted(self.folder.glob("step_*"), reverse=True):
            damage = find_damage(candidate)
            if damage is None:
                return candidate
            log.warning("checkpoint %s is damaged (%s); looking for the one before it", candidate, damage)
        return None

    def refuse_other_recipe(self) -> None:
        """Raise CheckpointError where the newest checkpoint belongs to another recipe."""
        newest = self.newest()
        if newest is None:
            return
        found = differences(read_description(newest)["identity"], self.identity)
        if found:
            raise CheckpointError(
                f"{newest}: this checkpoint was made by another recipe; what differs (checkpoint -> recipe):\n  "
                + "\n  ".join(found)
                + "\nChange the recipe back, or give it another `name` so that it trains in a folder of its own."
            )

    def save(
        self, step: int, model: DistributedDataParallel, optimizer: MegatronOptimizer, ranks: Ranks
    ) -> Path:
        """Write the checkpoint after `step` steps; every process calls it. Returns its folder."""
        final = self.path(step)
        partial = self.folder / f".step_{step:07d}.partial"
        if ranks.is_first:
            for leftover in self.folder.glob(".step_*.partial"):
                shutil.rmtree(leftover)
            partial.mkdir(parents=True)
        dist.barrier()
        dist_checkpointing.save(
            sharded_state(model, optimizer, is_loading=False), str(partial), async_sharded_save=False
        )
        dist.barrier()
        if ranks.is_first:
            self._finish(step, partial, final, ranks)
        dist.barrier()
        return final

    def load(self, path: Path, model: DistributedDataParallel, optimizer: MegatronOptimizer) -> int:
        """Load a checkpoint into the model and the optimizer; returns the steps it has behind it."""
        state = dist_checkpointing.load(sharded_state(model, optimizer, is_loading=True), str(path))
        unwrap_model(model).load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        return int(read_description(path)["step"])

    def _finish(self, step: int, partial: Path, final: Path, ranks: Ranks) -> None:
        files = {
            str(f.relative_to(partial)): f.stat().st_size for f in sorted(partial.rglob("*")) if f.is_file()
        }
        description = {
            "step": step,
            "world_size": ranks.world_size,
            "identity": self.identity,
            "files": files,
        }
        (partial / DESCRIPTION).write_text(json.dumps(description, indent=1, ensure_ascii=False))
        for name in [*files, DESCRIPTION]:
            _fsync(partial / name)
        sync_directory(partial)
        if final.exists():  # only a damaged one can stand here: a whole one would have been resumed from
            shutil.rmtree(final)
        partial.rename(final)
        sync_directory(self.folder)
        write_whole(self.folder / "latest", f"{final.name}\n".encode())
        for old in sorted(self.folder.glob("step_*"))[: -self.keep]:
            shutil.rmtree(old)


def sharded_state(
    model: DistributedDataParallel, optimizer: MegatronOptimizer, *, is_loading: bool
) -> dict[str, Any]:
    """Describe this process's shards of weights, master weights and Adam's moments to megatron-core."""
    weights = unwrap_model(model).sharded_state_dict(metadata=_SHARDING)
    moments = optimizer.sharded_state_dict(weights, is_loading=is_loading, metadata=_SHARDING)
    return {"model": weights, "optimizer": moments}


def newest_for_all(folder: CheckpointFolder, ranks: Ranks) -> Path | None:
    """Let the first process choose the checkpoint to go on from, so that all load the same one."""
    return from_first(folder.newest() if ranks.is_first else None)


def read_description(path: Path) -> dict[str, Any]:
    """Read a checkpoint's `checkpoint.json`."""
    description: dict[str, Any] = json.loads((path / DESCRIPTION).read_text())
    return description


def find_damage(path: Path) -> str | None:
    """Return what is wrong with a checkpoint's files, or None where all are there in their full size."""
    try:
        files = read_description(path)["files"]
    except (OSError, ValueError, KeyError) as error:
        return f"{DESCRIPTION} cannot be read: {error}"
    for name, size in files.items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes instead of {size}"
    return None


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
