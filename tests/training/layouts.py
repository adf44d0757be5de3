"""A program for torchrun: saves and loads checkpoints at several layouts of one number of processes.

layouts.py RECIPE FOLDER [save=TPxPP ...] [load=NAME,TPxPP ...]

`save` trains three steps at a layout, saves as FOLDER/NAME and takes two more; NAME is the layout with the number of
processes, 2x1of4. `load` loads that checkpoint at another layout, saves it again beside as NAME-as-2x2of4, and takes
two steps. The losses of the two steps go to FOLDER/NAME.json.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch.distributed as dist
from megatron.core import parallel_state

from retrieva_pretrain.data.batches import TrainingSamples
from retrieva_pretrain.model.build import build_model, wrap_model
from retrieva_pretrain.model.optimizer import build_optimizer
from retrieva_pretrain.platform.quiet import quiet_upstream
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.training import distributed
from retrieva_pretrain.training.checkpoint import Checkpointer
from retrieva_pretrain.training.distributed import Ranks
from retrieva_pretrain.training.prepare import prepare
from retrieva_pretrain.training.resume import resume
from retrieva_pretrain.training.run_folder import RunFolder
from retrieva_pretrain.training.step import Stepper
from retrieva_pretrain.training.stopping import StopRequests
from retrieva_pretrain.training.watchdog import Watchdog

SETTINGS = ["precision=fp32", "model.hidden_dropout=0.0", "model.attention_dropout=0.0"]


def main(recipe: Path, folder: Path, tasks: list[str]) -> None:
    """Do the tasks one after the other in the same processes."""
    quiet_upstream()
    world_size = int(os.environ["WORLD_SIZE"])
    for number, task in enumerate(tasks):
        kind, _, what = task.partition("=")
        source, _, layout = what.rpartition(",")
        tensor, pipeline = (int(size) for size in layout.split("x"))
        name = f"{layout}of{world_size}" if kind == "save" else f"{source}-as-{layout}of{world_size}"
        overrides = [
            *SETTINGS,
            f"runs_dir={folder}",
            f"name={name}",
            f"parallelism.tensor_model_parallel_size={tensor}",
            f"parallelism.pipeline_model_parallel_size={pipeline}",
        ]
        run = prepare(load_yaml(Recipe, recipe, overrides))
        ranks = join(run.recipe) if number else distributed.initialize(run.recipe)
        losses = saved_and_trained(run, ranks, RunFolder(folder / source) if source else None)
        if ranks.is_first:
            (folder / f"{name}.json").write_text(json.dumps(losses))
    distributed.shut_down()


def join(recipe: Recipe) -> Ranks:
    """Divide the processes anew, for another layout."""
    parallel_state.destroy_model_parallel()
    # It forgets the groups, whose threads live on: a thousand of them after a few layouts.
    everyone = dist.group.WORLD
    for group in list(dist.distributed_c10d._world.pg_map):
        if group is not everyone:
            dist.destroy_process_group(group)
    return distributed.divide(recipe)


def saved_and_trained(run: Any, ranks: Ranks, source: RunFolder | None) -> list[float]:
    """Train or load, save in the run's own folder, and return the losses of the two steps that follow."""
    model = wrap_model(run.recipe, build_model(run.recipe, run.padded_vocab_size))
    optimizer = build_optimizer(run.recipe, model)
    watchdog = Watchdog(run.recipe.faults, ranks.rank, ranks.world_size, on_hang=print)
    stepper = Stepper(
        run.recipe,
        model,
        optimizer,
        TrainingSamples(run.recipe, run.corpora),
        run.layouts,
        ranks,
        run=run.folder.path,
        stop_requests=StopRequests(),
        watchdog=watchdog,
    )
    if source is None:
        step = 3
        for taken in range(step):
            stepper.train_step(taken)
    else:
        resumed = resume(source, model, optimizer, ranks)
        assert resumed.checkpoint is not None
        step = resumed.step
    saver = Checkpointer(run.folder, run.identity, run.recipe.checkpoint, ranks)
    saver.save(step, model, optimizer, stepper.state())
    # The steps change what is being saved beside them.
    losses = [stepper.train_step(step + taken).loss for taken in range(2)]
    saver.poll(step + 2)
    saver.finish()
    watchdog.close()
    return losses


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
