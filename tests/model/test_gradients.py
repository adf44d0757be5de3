"""Norm and clipping in a few kernels are those of megatron-core, at every layout."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytestmark = pytest.mark.engine

PROGRAM = """
import sys
from pathlib import Path
import torch
from megatron.core.optimizer.clip_grads import clip_grad_by_total_norm_fp32
from torch.utils._python_dispatch import TorchDispatchMode
from retrieva_pretrain.model.build import build_model, wrap_model
from retrieva_pretrain.model.gradients import clip_gradients, squared_norms
from retrieva_pretrain.model.optimizer import build_optimizer
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.training.distributed import initialize, shut_down
from retrieva_pretrain.training.step import prepare_gradients

class Counts(TorchDispatchMode):
    operators = 0
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.operators += 1
        return func(*args, **(kwargs or {}))

exact, *layout = sys.argv[1:]
for number, settings in enumerate((["precision=bf16"], ["precision=fp32"], ["model.num_query_groups=4"],
                                   ["model.share_embeddings_and_output_weights=false"])):
    recipe = load_yaml(Recipe, Path("recipes/demo.yaml"), ["model.num_layers=4", *settings, *layout])
    if number == 0:
        ranks = initialize(recipe)
    model = wrap_model(recipe, build_model(recipe, 512))
    optimizer = build_optimizer(recipe, model)
    generator = torch.Generator().manual_seed(5 + ranks.rank)
    for parameter in model.parameters():
        parameter.main_grad.normal_(std=0.1, generator=generator)
    norm = prepare_gradients(optimizer)
    theirs = optimizer.get_grad_norm()
    assert norm > 1
    # Over several processes the squares are added up in double precision, and in single there.
    assert norm == theirs if exact == "exact" else abs(norm - theirs) < 2e-7 * theirs, (norm, theirs)

    def gradients():
        return [p.grad for part in optimizer.chained_optimizers for p in part.get_parameters() if p.grad is not None]

    with Counts() as seen:
        squared_norms(optimizer)
        clip_gradients(optimizer, 2 * norm, norm)
    assert seen.operators < 10 < len(gradients())  # none for each tensor

    for max_norm in (0.7 * norm, 1.3 * norm):
        before = [g.clone() for g in gradients()]
        clip_gradients(optimizer, max_norm, norm)
        ours = [g.clone() for g in gradients()]
        assert any(not torch.equal(a, b) for a, b in zip(before, ours)) == (max_norm < norm)
        for gradient, value in zip(gradients(), before):
            gradient.copy_(value)
        for part in optimizer.chained_optimizers:
            clip_grad_by_total_norm_fp32(part.get_parameters(), max_norm, norm)
        assert all(torch.equal(a, b) for a, b in zip(ours, gradients()))
        for gradient, value in zip(gradients(), before):
            gradient.copy_(value)
    print("compared", settings)
shut_down()
"""
LAYOUTS = {
    "one process": (1, []),
    "DP=2": (2, []),
    "DP=2, whole optimizer": (2, ["parallelism.use_distributed_optimizer=false"]),
    "TP=2 with sequence parallelism": (
        2,
        ["parallelism.tensor_model_parallel_size=2", "parallelism.sequence_parallel=true"],
    ),
    "PP=2, whole optimizer": (
        2,
        ["parallelism.pipeline_model_parallel_size=2", "parallelism.use_distributed_optimizer=false"],
    ),
}
QUICK = ("one process",)


@pytest.mark.parametrize(
    "layout", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in LAYOUTS]
)
def test_norm_and_clipping_are_those_of_megatron_core(run_python: Callable[..., str], layout: str) -> None:
    processes, settings = LAYOUTS[layout]
    exact = "exact" if processes == 1 else "close"
    shown = run_python(PROGRAM, processes=processes, arguments=[exact, *settings])
    assert shown.count("compared") == 4 * processes
