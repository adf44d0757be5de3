"""What is computed again for backward is what was computed before, to the bit, dropout included."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytestmark = pytest.mark.engine

PROGRAM = """
import sys
from pathlib import Path
import torch
from benchmarks.saved_activations import saved_bytes
from retrieva_pretrain.model.build import build_model, wrap_model
from retrieva_pretrain.model.recompute import set_recompute
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.training.batch import MicroBatch
from retrieva_pretrain.training.distributed import initialize, seed_random_streams, shut_down
from retrieva_pretrain.training.step import run_micro_batches

recipe = load_yaml(Recipe, Path("recipes/demo.yaml"), [
    "model.num_layers=4", "model.hidden_dropout=0.2", "model.attention_dropout=0.2", "precision=" + sys.argv[1]])
initialize(recipe)
model = wrap_model(recipe, build_model(recipe, 512))
generator = torch.Generator().manual_seed(3)
ids = torch.randint(8, 500, (4, 32), generator=generator)
positions = torch.arange(6).expand(4, 6)
batch = MicroBatch(0, ids, positions, ids.gather(1, positions), torch.ones(4, 6))

def trained(settings):
    set_recompute(model, recipe.curriculum[0].model_copy(update=settings))
    model.zero_grad_buffer()
    scores = run_micro_batches(model, iter([batch]), seq_length=32, micro_batch_size=4, num_microbatches=1,
                               before_each=lambda b: seed_random_streams(1, 2, 3))
    return scores.loss, [p.main_grad.clone() for p in model.parameters()]

def kept():
    arguments = dict(input_ids=ids, scored_positions=positions, labels=batch.labels)
    return saved_bytes(lambda: model(**arguments), model.parameters())

loss, gradients = trained({})
everything, some = kept(), {}
assert max(float(g.abs().max()) for g in gradients) > 0
for name, settings in {
    "selective": {"recompute_granularity": "selective"},
    "two layers": {"recompute_granularity": "full", "recompute_num_layers": 2},
    "all layers": {"recompute_granularity": "full"},
    "none again": {},
}.items():
    again, found = trained(settings)
    assert again == loss, (name, again, loss)
    assert all(torch.equal(one, other) for one, other in zip(found, gradients)), name
    some[name] = kept()
assert some["none again"] == everything
assert some["all layers"] < some["two layers"] < everything and some["selective"] < everything, (everything, some)
shut_down()
"""


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_loss_and_gradients_are_the_same_to_the_bit_whatever_is_computed_again(
    run_python: Callable[..., str], precision: str
) -> None:
    run_python(PROGRAM, arguments=[precision])
