"""Compiled layers share their graphs, whatever a cluster's recipe overlaps."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.fast_path import FAST_KERNELS, OVERLAPS

# Graphs are counted, and run as they are: what they compile to is another matter.
PROGRAM = """
import json, sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
import torch
from torch._dynamo.utils import counters
torch.compile = partial(torch.compile, backend="eager")
from retrieva_pretrain.data.fake_samples import FakeSamples
from retrieva_pretrain.model.build import build_model, wrap_model
from retrieva_pretrain.model.optimizer import build_optimizer
from retrieva_pretrain.recipe.layout import stage_layouts
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.training.distributed import initialize, shut_down
from retrieva_pretrain.training.step import Stepper
from retrieva_pretrain.training.stopping import StopRequests
from retrieva_pretrain.training.watchdog import Watchdog

recipe = load_yaml(Recipe, Path("tests/recipe/small.yaml"), sys.argv[1:])
ranks = initialize(recipe)
model = wrap_model(recipe, build_model(recipe, 448))
watchdog = Watchdog(recipe.faults, ranks.rank, ranks.world_size, on_hang=print)
with TemporaryDirectory() as folder:
    stepper = Stepper(recipe, model, build_optimizer(recipe, model), FakeSamples(recipe, 448), stage_layouts(recipe, 1),
        ranks, run=Path(folder), stop_requests=StopRequests(), watchdog=watchdog)
    for step in range(2):
        stepper.train_step(step)
    cut = sum(count for why, count in counters["graph_break"].items() if "SdpaCoreAttention" not in why)
    print("found", json.dumps([counters["stats"]["unique_graphs"], cut]))
    stepper.prefetch.close()
watchdog.close()
shut_down()
"""


@pytest.mark.engine
def test_layers_share_graphs_that_nothing_but_attention_cuts(run_python: Callable[..., str]) -> None:
    # Weight gradients are added up by themselves: by default they are where layers are compiled.
    path = [*FAST_KERNELS[:1], *OVERLAPS, "kernels.compile_layers=true", "global_batch_size=4"]
    found = []
    for layers in (2, 4):
        shown = run_python(PROGRAM, arguments=[f"model.num_layers={layers}", *path])
        found.append(json.loads(next(line for line in shown.splitlines() if line.startswith("found"))[6:]))
    (graphs, cut), deeper = found
    assert deeper == [graphs, 0]
    assert cut == 0 and 0 < graphs < 10
