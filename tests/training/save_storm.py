"""A program for torchrun: saves on a small disk, with every amount of room, then two hundred times in a row.

save_storm.py RECIPE DISK
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import psutil
import torch.distributed as dist

from retrieva_pretrain.model.build import build_model, wrap_model
from retrieva_pretrain.model.optimizer import build_optimizer
from retrieva_pretrain.platform.quiet import quiet_upstream
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.training import distributed
from retrieva_pretrain.training.checkpoint import Checkpointer
from retrieva_pretrain.training.checkpoint_files import find_corruption, find_damage, share_of_files
from retrieva_pretrain.training.prepare import prepare


def main(recipe: Path, disk: Path) -> None:
    """Save and tell what happened in DISK/told.json."""
    quiet_upstream()
    run = prepare(load_yaml(Recipe, recipe, [f"runs_dir={disk}", "checkpoint.keep=1"]))
    ranks = distributed.initialize(run.recipe)
    model = wrap_model(run.recipe, build_model(run.recipe, run.padded_vocab_size))
    optimizer = build_optimizer(run.recipe, model)
    saver = Checkpointer(run.folder, run.identity, run.recipe.checkpoint, ranks)
    step, saved, children = 0, {}, set()

    def save() -> bool:
        nonlocal step
        step += 1
        saver.save(step, model, optimizer, {})
        children.update(p.name() for p in psutil.Process().children(recursive=True))
        while saver.is_saving:
            saver.poll(step + 1)
        return saver.last_saved == step

    room = list(range(0, 1_200_000, 16_384))
    for free in room:
        filler = disk / "filler"
        if ranks.is_first:
            shutil.rmtree(run.folder.path, ignore_errors=True)
            with filler.open("wb") as stream:
                os.posix_fallocate(stream.fileno(), 0, max(shutil.disk_usage(disk).free - free, 1))
        dist.barrier()
        saved[free] = save()
        dist.barrier()
        if ranks.is_first:
            assert not list(run.folder.checkpoints.glob(".step_*"))
            filler.unlink()
        dist.barrier()
    whole = 0
    for _ in range(200):
        save()
        if ranks.is_first:
            path = run.folder.newest_checkpoint()
            assert path == run.folder.checkpoint(step)
            assert find_damage(path) is None
            assert find_corruption(path, share_of_files(path, 0, 1)) is None
        whole += 1
        dist.barrier()
    if ranks.is_first:
        told = {"free": room, "saved": saved, "whole": whole, "children": sorted(children)}
        (disk / "told.json").write_text(json.dumps(told))
    distributed.shut_down()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
