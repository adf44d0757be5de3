"""Saving and loading distributed checkpoints that are whole or absent.

A checkpoint is written into a hidden folder, made durable, described by a `checkpoint.json` with the size of
every file, and renamed; only then does `latest` name it. Whatever instant a kill falls into, the folders
named `step_*` are complete. Tensors go through megatron-core's distributed checkpointing, so that a run can
go on with another number of processes.
"""

from __future__ import annotations

import json
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
from retrieva_pretrain.training.distributed import Ranks
from retrieva_pretrain.training.run_folder import DESCRIPTION, RunFolder, read_description

# The default sharding type of the distributed optimizer cannot be saved ("flattened_range is not supported",
# megatron-core 0.16.1 and 0.19.2); this one can, and loads at any other number of processes.
_SHARDING = {"distrib_optim_sharding_type": "fully_reshardable"}


class Checkpointer:
    """Saves the state of a run, and keeps the newest checkpoints."""

    def __init__(self, folder: RunFolder, identity: dict[str, Any], keep: int, ranks: Ranks) -> None:
        self.folder = folder
        self.identity = identity
        self.keep = keep
        self.ranks = ranks

    def save(
        self,
        step: int,
        model: DistributedDataParallel,
        optimizer: MegatronOptimizer,
        state: dict[str, Any],
    ) -> Path:
        """Write the checkpoint after `step` steps; every process calls it. Returns its folder.

        `state` is what the run must remember beside tensors, as plain JSON.
        """
        final = self.folder.checkpoint(step)
        partial = final.with_name(f".{final.name}.partial")
        if self.ranks.is_first:
            for leftover in self.folder.checkpoints.glob(".step_*.partial"):
                shutil.rmtree(leftover)
            partial.mkdir(parents=True)
        dist.barrier()
        dist_checkpointing.save(
            sharded_state(model, optimizer, is_loading=False), str(partial), async_sharded_save=False
        )
        dist.barrier()
        if self.ranks.is_first:
            self._finish(step, partial, final, state)
        dist.barrier()
        return final

    def _finish(self, step: int, partial: Path, final: Path, state: dict[str, Any]) -> None:
        files = {
            str(f.relative_to(partial)): f.stat().st_size for f in sorted(partial.rglob("*")) if f.is_file()
        }
        description = {
            "step": step,
            "world_size": self.ranks.world_size,
            "identity": self.identity,
            "state": state,
            "files": files,
        }
        (partial / DESCRIPTION).write_text(json.dumps(description, indent=1, ensure_ascii=False), "utf-8")
        for name in [*files, DESCRIPTION]:
            _fsync(partial / name)
        sync_directory(partial)
        if final.exists():  # only a damaged one can stand here: a whole one would have been resumed from
            shutil.rmtree(final)
        partial.rename(final)
        sync_directory(final.parent)
        write_whole(final.with_name("latest"), f"{final.name}\n".encode())
        # The run went on from the newest whole checkpoint, so whatever claims a later step is damaged.
        for step_found, folder in self.folder.checkpoint_folders():
            if step_found > step:
                shutil.rmtree(folder)
        for _, folder in sorted(self.folder.checkpoint_folders())[: -self.keep]:
            shutil.rmtree(folder)


def load_checkpoint(
    path: Path, model: DistributedDataParallel, optimizer: MegatronOptimizer
) -> tuple[int, dict[str, Any]]:
    """Load a checkpoint into the model and the optimizer; returns the steps behind it and the state saved with it."""
    state = dist_checkpointing.load(sharded_state(model, optimizer, is_loading=True), str(path))
    unwrap_model(model).load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    description = read_description(path)
    return int(description["step"]), description.get("state", {})


def sharded_state(
    model: DistributedDataParallel, optimizer: MegatronOptimizer, *, is_loading: bool
) -> dict[str, Any]:
    """Describe this process's shards of weights, master weights and Adam's moments to megatron-core."""
    weights = unwrap_model(model).sharded_state_dict(metadata=_SHARDING)
    moments = optimizer.sharded_state_dict(weights, is_loading=is_loading, metadata=_SHARDING)
    return {"model": weights, "optimizer": moments}


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
