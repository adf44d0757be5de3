"""Loss and gradients do not depend on how the model is divided, nor on which positions the head runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fast_path import FAST_KERNELS

pytestmark = pytest.mark.engine

# Whole tensors by global name, whatever the layout: values of `of(parameter)` are put together from all processes.
PREPARE = """
import json
import sys
from pathlib import Path
import numpy as np
import torch
import torch.distributed as dist
from megatron.core import parallel_state
from retrieva_pretrain.model.build import build_model, wrap_model
from retrieva_pretrain.model.initialization import sharded_tensors
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.training.batch import MicroBatch
from retrieva_pretrain.training.distributed import initialize, shut_down
from retrieva_pretrain.model.optimizer import build_optimizer
from retrieva_pretrain.training.step import prepare_gradients, run_micro_batches

VOCABULARY, SAMPLES, LENGTH, SLOTS = 512, 4, 16, 6

def recipe_of(*overrides):
    return load_yaml(Recipe, Path("recipes/demo.yaml"), [
        "precision=fp32", "model.hidden_dropout=0.0", "model.attention_dropout=0.0", "model.num_layers=4",
        "model.hidden_size=32", "model.ffn_hidden_size=48", *overrides])

def whole(model, of):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.data.copy_(of(parameter))
    mine = [(s.key, s.global_offset, s.prepend_axis_num, s.global_shape, s.data.detach().numpy().copy())
            for s in sharded_tensors(model)]
    everyone = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    found = {}
    for key, offset, prepended, shape, data in (entry for part in everyone for entry in part):
        name = ".".join([key, *map(str, offset[:prepended])])
        target = found.setdefault(name, np.full(shape[prepended:], np.nan, np.float32))
        window = tuple(slice(o, o + n) for o, n in zip(offset[prepended:], data.shape[-(len(shape) - prepended):]))
        part = data.reshape(target[window].shape)
        known = ~np.isnan(target[window])
        # What several processes hold must be the same on all of them.
        np.testing.assert_allclose(part[known], target[window][known], rtol=1e-5, atol=1e-7, err_msg=name)
        target[window] = part
    assert not any(np.isnan(values).any() for values in found.values())
    return found

def batch():
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(8, 500, (SAMPLES, LENGTH), generator=generator)
    positions = torch.stack([torch.randperm(LENGTH, generator=generator)[:SLOTS].sort()[0] for _ in range(SAMPLES)])
    labels = torch.randint(8, 500, (SAMPLES, LENGTH), generator=generator)
    weights = (torch.arange(SLOTS) < torch.tensor([[6], [3], [5], [1]])).float()
    return ids, positions, labels, weights
"""

# Upstream's way: logits and losses of every position, of which the scored ones are taken afterwards.
FULL_HEAD = """
initialize(recipe_of())
for name, settings in json.loads(sys.argv[2]).items():
    # Whatever kernels are compared with it, this one is computed by megatron-core's plain code.
    plain = [setting for setting in settings if not setting.startswith("kernels.")]
    model = build_model(recipe_of(*plain), VOCABULARY).to("cpu")
    start = whole(model, lambda p: p.data.clone())
    ids, positions, labels, weights = batch()
    losses, _ = model(input_ids=ids, labels=labels)
    loss = (losses.gather(1, positions) * weights).sum() / weights.sum()
    loss.backward()
    grads = whole(model, lambda p: p.grad)
    assert loss > 1
    np.savez(Path(sys.argv[1]) / f"{name}.npz", loss=loss.detach().numpy(),
             **{"start " + k: v for k, v in start.items()}, **{"grad " + k: v for k, v in grads.items()})
shut_down()
"""

LAYOUT = """
layout = sys.argv[3:]
ranks = initialize(recipe_of(*layout))

def compare(recipe, expected):
    model = wrap_model(recipe, build_model(recipe, VOCABULARY))
    optimizer = build_optimizer(recipe, model)
    bare = model.module
    start = whole(bare, lambda p: p.data.clone())
    for name, value in start.items():
        np.testing.assert_array_equal(value, expected["start " + name], err_msg=name)
    ids, positions, labels, weights = batch()
    share = SAMPLES // ranks.data_parallel_size
    batches = []
    for sample in range(ranks.data_parallel_rank * share, (ranks.data_parallel_rank + 1) * share):
        row = slice(sample, sample + 1)
        batches.append(MicroBatch(
            sample, ids[row], positions[row], labels[row].gather(1, positions[row]), weights[row]))
    model.zero_grad_buffer()
    scores = run_micro_batches(
        model, iter(batches), seq_length=LENGTH, micro_batch_size=1, num_microbatches=share)
    np.testing.assert_allclose(scores.mean_loss, expected["loss"], rtol=1e-5)
    norm = prepare_gradients(optimizer)
    squares = sum(float((expected[k].astype(np.float64) ** 2).sum()) for k in expected.files if k.startswith("grad "))
    np.testing.assert_allclose(norm, squares ** 0.5, rtol=1e-5)
    grads = whole(bare, lambda p: p.main_grad)
    assert sorted(grads) == sorted(k[5:] for k in expected.files if k.startswith("grad "))
    for name, value in grads.items():
        scale = np.abs(expected["grad " + name]).max()
        assert scale > 0 or "linear_qkv.bias" in name, name
        np.testing.assert_allclose(
            value, expected["grad " + name], rtol=2e-4, atol=2e-5 * scale + 1e-9, err_msg=name)

for name, settings in json.loads(sys.argv[2]).items():
    compare(recipe_of(*settings, *layout), np.load(Path(sys.argv[1]) / f"{name}.npz"))
    print("compared", name)
shut_down()
"""

LAYOUTS = {
    "one process": (1, []),
    # With the distributed optimizer each process would keep only its share of the reduced gradients.
    "DP=2": (2, ["parallelism.use_distributed_optimizer=false"]),
    "TP=2": (2, ["parallelism.tensor_model_parallel_size=2"]),
    "TP=2 with sequence parallelism": (
        2,
        ["parallelism.tensor_model_parallel_size=2", "parallelism.sequence_parallel=true"],
    ),
    "PP=2": (2, ["parallelism.pipeline_model_parallel_size=2"]),
    "TP=2, PP=2, sequence parallelism": (
        4,
        [
            "parallelism.tensor_model_parallel_size=2",
            "parallelism.pipeline_model_parallel_size=2",
            "parallelism.sequence_parallel=true",
        ],
    ),
}
MODELS = {
    "MQA, tied": [],
    "MHA, untied": ["model.num_query_groups=4", "model.share_embeddings_and_output_weights=false"],
    "GQA, tied": ["model.num_query_groups=2"],
    "fast kernels, MQA": list(FAST_KERNELS),
}


@pytest.fixture(scope="module")
def full_head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the full head's losses and gradients are, of every model; computed once."""
    return tmp_path_factory.mktemp("full-head")


QUICK = "TP=2 with sequence parallelism"


@pytest.mark.parametrize(
    "layout",
    [pytest.param(layout, marks=() if layout == QUICK else pytest.mark.slow) for layout in LAYOUTS],
)
def test_loss_and_every_gradient_are_those_of_the_full_head(
    run_python: Callable[..., str], full_head: Path, layout: str
) -> None:
    # Kernels that compile take their time: in the quick suite they are held against the plain ones elsewhere.
    chosen = {name: settings for name, settings in MODELS.items() if layout != QUICK or "kernels" not in name}
    models = json.dumps(chosen)
    if not any(full_head.iterdir()):
        run_python(PREPARE + FULL_HEAD, arguments=[str(full_head), json.dumps(MODELS)])
    processes, settings = LAYOUTS[layout]
    shown = run_python(PREPARE + LAYOUT, processes=processes, arguments=[str(full_head), models, *settings])
    for model in chosen:
        assert shown.count(f"compared {model}") == processes
