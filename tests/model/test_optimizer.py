"""The model's weights are the optimizer's rounded, written by few kernels and as megatron-core writes them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytestmark = pytest.mark.engine

PROGRAM = """
import sys
from pathlib import Path
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from retrieva_pretrain.model.build import build_model, wrap_model
from retrieva_pretrain.model.optimizer import build_optimizer
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.training.distributed import initialize, shut_down
from retrieva_pretrain.training.step import prepare_gradients, update_weights

class Copies(TorchDispatchMode):
    copies = 0
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.copies += "copy_" in func._schema.name
        return func(*args, **(kwargs or {}))

for number, settings in enumerate((["precision=bf16"], ["precision=fp32"],
                                   ["parallelism.use_distributed_optimizer=false"])):
    recipe = load_yaml(Recipe, Path("recipes/demo.yaml"), ["model.num_layers=2", *settings])
    if number == 0:
        initialize(recipe)
    model = wrap_model(recipe, build_model(recipe, 512))
    optimizer = build_optimizer(recipe, model)
    before = [p.detach().clone() for p in model.parameters()]
    for step in range(3):
        for parameter in model.parameters():
            parameter.main_grad.normal_()
        norm = prepare_gradients(optimizer)
        with Copies() as seen:
            update_weights(optimizer, 1.0, norm)
        assert seen.copies <= 1 < len(before), seen.copies
    ours = [p.detach().clone() for p in model.parameters()]
    assert all(not torch.equal(a, b) for a, b in zip(before, ours))
    for parameter in model.parameters():
        parameter.data.zero_()
    for part in optimizer.chained_optimizers:
        if hasattr(type(part), "_copy_main_params_to_model_params") and recipe.precision == "bf16":
            type(part)._copy_main_params_to_model_params(part)
            if recipe.parallelism.use_distributed_optimizer:
                model.start_param_sync(force_sync=True)
            assert all(torch.equal(a, b) for a, b in zip(ours, model.parameters()))
            print("compared", settings)
shut_down()
"""


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_weights_are_written_by_one_copy_and_as_upstream_does(
    run_python: Callable[..., str], processes: int
) -> None:
    assert run_python(PROGRAM, processes=processes).count("compared") == 2 * processes
