"""The stages of a pipeline hold different layers and start with different weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytestmark = pytest.mark.engine

PROGRAM = """
from pathlib import Path
import torch
import torch.distributed as dist
from retrieva_pretrain.model.build import build_model
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.training.distributed import initialize, shut_down

recipe = load_yaml(Recipe, Path("recipes/demo.yaml"), ["parallelism.pipeline_model_parallel_size=3", "model.num_layers=3"])
initialize(recipe)
weight = build_model(recipe, 512).encoder.layers[0].mlp.linear_fc1.weight.detach().float()
weights = [torch.zeros_like(weight) for _ in range(3)]
dist.all_gather(weights, weight.contiguous())
for one, other in ((0, 1), (1, 2), (0, 2)):
    assert not torch.equal(weights[one], weights[other]), (one, other)
shut_down()
"""


def test_the_layers_of_different_stages_do_not_start_alike(run_python: Callable[..., str]) -> None:
    run_python(PROGRAM, processes=3)
