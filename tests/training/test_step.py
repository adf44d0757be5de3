"""The loss of a step is a mean over the scored tokens of the global batch, whatever the micro-batches."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytestmark = pytest.mark.engine

PROGRAM = """
from pathlib import Path
import torch
from retrieva_pretrain.model.build import build_model, wrap_model
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.training.batch import MicroBatch
from retrieva_pretrain.training.distributed import initialize, shut_down
from retrieva_pretrain.training.step import run_micro_batches

recipe = load_yaml(Recipe, Path("recipes/demo.yaml"),
                   ["precision=fp32", "model.hidden_dropout=0.0", "model.attention_dropout=0.0"])
initialize(recipe)
model = wrap_model(recipe, build_model(recipe, 512))
torch.manual_seed(3)
ids = torch.randint(8, 500, (4, 16))
positions = torch.arange(6).expand(4, 6)
labels = torch.randint(8, 500, (4, 6))
weights = torch.zeros(4, 6)
for row, count in enumerate((1, 6, 2, 5)):  # scored tokens of each sample
    weights[row, :count] = 1.0

def gradients(size):
    model.zero_grad_buffer()
    batches = [
        MicroBatch(start, ids[start:start + size], positions[start:start + size],
                   labels[start:start + size], weights[start:start + size])
        for start in range(0, 4, size)
    ]
    scores = run_micro_batches(model, iter(batches), seq_length=16, micro_batch_size=size,
                               num_microbatches=len(batches))
    return scores, {n: p.main_grad.clone() for n, p in model.named_parameters()}

whole, expected = gradients(4)
loss, _ = model.module(input_ids=ids, scored_positions=positions, labels=labels)
assert whole.tokens == 14
assert abs(whole.mean_loss - float((loss * weights).sum() / 14)) < 1e-5
assert max(float(g.abs().max()) for g in expected.values()) > 1e-3
for size in (1, 2):
    scores, found = gradients(size)
    assert scores.tokens == 14 and abs(scores.mean_loss - whole.mean_loss) < 1e-5
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6, msg=name)
shut_down()
"""


def test_gradient_and_loss_do_not_depend_on_the_micro_batch_when_samples_score_different_numbers(
    run_python: Callable[..., str],
) -> None:
    run_python(PROGRAM)


SAME_UPDATE = """
from pathlib import Path
import torch
from retrieva_pretrain.model.build import build_model, wrap_model
from retrieva_pretrain.model.optimizer import build_optimizer
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.training.distributed import initialize, shut_down
from retrieva_pretrain.training.step import prepare_gradients, update_weights

for number, settings in enumerate(
    (["precision=bf16"], ["precision=fp32"], ["precision=bf16", "parallelism.use_distributed_optimizer=false"],
     ["precision=fp32", "parallelism.use_distributed_optimizer=false"], ["precision=bf16", "optimizer.clip_grad=0"])
):
    recipe = load_yaml(Recipe, Path("recipes/demo.yaml"), settings)
    if number == 0:
        initialize(recipe)

    def updated(step):
        model = wrap_model(recipe, build_model(recipe, 512))
        optimizer = build_optimizer(recipe, model)
        generator = torch.Generator().manual_seed(5)
        for _ in range(3):
            for parameter in model.parameters():
                parameter.main_grad.normal_(std=0.1, generator=generator)
            norm = step(optimizer)
        return norm, [p.detach().clone() for p in model.parameters()]

    def ours(optimizer):
        norm = prepare_gradients(optimizer)
        update_weights(optimizer, recipe.optimizer.clip_grad, norm)
        return norm

    norm, weights = updated(ours)
    expected_norm, expected = updated(lambda optimizer: optimizer.step()[1])
    assert norm == expected_norm and norm > 1, (norm, expected_norm)
    assert all(torch.equal(one, other) for one, other in zip(weights, expected))
shut_down()
"""


def test_the_update_in_pieces_is_that_of_megatrons_own_step(run_python: Callable[..., str]) -> None:
    run_python(SAME_UPDATE)
