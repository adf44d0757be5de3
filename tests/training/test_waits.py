"""A training step waits for the device once, whatever the recipe, also while a checkpoint is being written; on a GPU torch
itself counts.

Counted over the loop, its log included, and over upstream's code. Allowed in addition: one wait before the first step,
when the processes ask each other whether to stop.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.fast_path import FAST_KERNELS

pytestmark = pytest.mark.engine

# Steps of a small model on random tokens, from the second on: the first of a process allocates and compiles.
PROGRAM = """
import json
import sys
import threading
from pathlib import Path
from tempfile import TemporaryDirectory
from retrieva_pretrain import platform
from retrieva_pretrain.curriculum.stages import Curriculum
from retrieva_pretrain.data.fake_samples import FakeSamples
from retrieva_pretrain.model.build import build_model, gather_weights, wrap_model
from retrieva_pretrain.model.optimizer import build_optimizer
from retrieva_pretrain.planning.flops import training_flops
from retrieva_pretrain.platform.waits import count_waits
from retrieva_pretrain.recipe.layout import stage_layouts
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.training.checkpoint import Checkpointer
from retrieva_pretrain.training.distributed import from_first, initialize, shut_down
from retrieva_pretrain.training.interval import Work
from retrieva_pretrain.training.loop import Loop
from retrieva_pretrain.training.metrics import MetricsLog
from retrieva_pretrain.training.run_folder import RunFolder
from retrieva_pretrain.training.shards import ShardWriter
from retrieva_pretrain.training.step import Stepper
from retrieva_pretrain.training.stopping import StopRequests
from retrieva_pretrain.training.watchdog import Watchdog

STEPS = 3

def recipe_of(settings):
    return load_yaml(Recipe, Path("recipes/demo.yaml"), [
        "model.num_layers=2", "model.hidden_size=32", "model.ffn_hidden_size=48", "model.num_attention_heads=4",
        "global_batch_size=8", "curriculum=[{seq_length: 32, train_iters: 100, max_micro_batch_size: 2}]",
        "tokenizer.make_vocab_size_divisible_by=64", "checkpoint.save_interval=1000",
        "evaluation.eval_interval=1000", *settings])

# A checkpoint is being written all the while: its files are held back until the steps are counted.
class Saves:
    def __init__(self, checkpointer):
        self._checkpointer, self._may_write = checkpointer, threading.Event()
        write = ShardWriter.write
        ShardWriter.write = lambda writer: self._may_write.wait() and write(writer)
        self._write = write
    def __getattr__(self, name): return getattr(self._checkpointer, name)
    def finish(self): assert self.is_saving
    def end(self):
        self._may_write.set()
        self._checkpointer.finish()
        ShardWriter.write = self._write
        assert self._checkpointer.last_saved == 1

class EndsAt:
    def __init__(self, curriculum, end):
        self._curriculum, self.total_steps = curriculum, end
    def __getattr__(self, name): return getattr(self._curriculum, name)

def waits_of(settings, ranks, folder, stop_requests):
    recipe = recipe_of(settings)
    module = build_model(recipe, 512)
    model = wrap_model(recipe, module)
    watchdog = Watchdog(recipe.faults, ranks.rank, ranks.world_size, on_hang=print)
    stepper = Stepper(
        recipe, model, build_optimizer(recipe, model), FakeSamples(recipe, 512),
        stage_layouts(recipe, ranks.world_size), ranks, run=Path(folder), stop_requests=stop_requests,
        watchdog=watchdog)
    metrics = MetricsLog(Path(folder), Work(stepper.curriculum, training_flops(recipe, 512), 1, None), 0,
                         tensorboard=False)
    saves = Saves(Checkpointer(RunFolder(Path(from_first(folder))), {}, recipe.checkpoint, ranks, for_ever=set()))
    loop = Loop(stepper, None, saves, metrics)
    stepper.train_step(0)
    gather_weights(model)
    saves.save(1, model, stepper.optimizer, stepper.state())
    loop.curriculum = EndsAt(stepper.curriculum, 1 + STEPS)
    reads = platform.current().reads
    with count_waits() as waits:
        loop.run(1)
    counted = platform.current().reads - reads
    saves.end()
    stepper.prefetch.close()
    metrics.close()
    watchdog.close()
    return counted, [f"{w.what} at {w.where}" for w in waits]

variants = json.loads(sys.argv[1])
ranks = initialize(recipe_of(next(iter(variants.values()))))
stop_requests = StopRequests()
for name, settings in variants.items():
    with TemporaryDirectory() as folder:
        reads, waits = waits_of(settings, ranks, folder, stop_requests)
    print("found", json.dumps([name, reads, waits]))
shut_down()
"""
STEPS = 3
VARIANTS = {
    "bf16": [],
    "fp32": ["precision=fp32"],
    "whole optimizer": ["parallelism.use_distributed_optimizer=false"],
    "everything computed again": ["curriculum.0.recompute_granularity=full"],
    "documents apart": ["data.reset_attention_mask=true", "data.reset_position_ids=true"],
    "fast path, documents apart": [*FAST_KERNELS, "data.reset_attention_mask=true"],
}


LAYOUTS = {
    "sharded, overlapped": (
        2,
        ["parallelism.overlap_grad_reduce=true", "parallelism.overlap_param_gather=true"],
    ),
    "TP=2 with sequence parallelism": (
        2,
        ["parallelism.tensor_model_parallel_size=2", "parallelism.sequence_parallel=true"],
    ),
    "PP=2": (2, ["parallelism.pipeline_model_parallel_size=2"]),
}


def check(shown: str, variants: dict[str, list[str]], processes: int) -> None:
    lines = [json.loads(line[6:]) for line in shown.splitlines() if line.startswith("found ")]
    assert sorted(name for name, _, _ in lines) == sorted([*variants] * processes)
    for name, reads, waits in lines:
        assert reads == STEPS + 1, (name, reads)
        assert len(waits) == reads, (name, waits)


def test_a_step_waits_once(run_python: Callable[..., str]) -> None:
    check(run_python(PROGRAM, arguments=[json.dumps(VARIANTS)]), VARIANTS, 1)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_step_of_several_processes_waits_once(run_python: Callable[..., str], layout: str) -> None:
    processes, settings = LAYOUTS[layout]
    shown = run_python(PROGRAM, processes=processes, arguments=[json.dumps({layout: settings})])
    check(shown, {layout: settings}, processes)
