"""Floating-point operations by formula, against those that torch counts in the model that is built."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from retrieva_pretrain.planning.flops import count_flops, training_flops
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import ModelConfig, Recipe

RECIPES = Path(__file__).resolve().parents[2] / "recipes"

COUNT = """
from pathlib import Path
import torch
from torch.utils.flop_counter import FlopCounterMode
from retrieva_pretrain.model.build import build_model
from retrieva_pretrain.planning.flops import count_flops
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.training.distributed import initialize, shut_down

started = False
for groups, tied, length, slots in ((1, "true", 16, 3), (2, "true", 64, 10), (4, "false", 32, 5)):
    recipe = load_yaml(Recipe, Path("recipes/demo.yaml"), [
        "precision=fp32", f"model.num_query_groups={groups}",
        f"model.share_embeddings_and_output_weights={tied}"])
    if not started:
        initialize(recipe)
    started = True
    model = build_model(recipe, 1024)
    samples = 3
    ids = torch.randint(8, 500, (samples, length))
    positions = torch.arange(slots).expand(samples, slots)
    with FlopCounterMode(display=False) as forward:
        loss, _ = model(input_ids=ids, scored_positions=positions, labels=ids[:, :slots])
    with FlopCounterMode(display=False) as backward:
        loss.sum().backward()
    count = count_flops(recipe.model, 1024, length, slots)
    both = forward.get_total_flops() + backward.get_total_flops()
    for counted, torchs in ((count.forward, forward.get_total_flops()), (count.training, both)):
        assert abs(samples * counted / torchs - 1) < 0.01, (groups, length, samples * counted, torchs)
shut_down()
"""


@pytest.mark.engine
def test_the_formula_counts_what_torch_counts_in_the_built_model(run_python: Callable[..., str]) -> None:
    run_python(COUNT)


def test_every_product_of_a_tiny_model_is_counted_by_hand() -> None:
    model = ModelConfig(
        num_layers=3,
        hidden_size=8,
        ffn_hidden_size=5,
        num_attention_heads=4,
        num_query_groups=1,
        max_position_embeddings=16,
    )
    count = count_flops(model, padded_vocab_size=10, seq_length=6, slots=2)
    assert count.body == 3 * 2 * 6 * (8 * (8 + 2 * 2) + 8 * 8 + 8 * 10 + 5 * 8)
    assert count.attention == 3 * 2 * (6 * 6 * 8 + 6 * 6 * 8)
    assert count.head == 2 * 2 * (8 * 8 + 8 * 10)
    assert count.training == 3 * (count.body + count.attention + count.head)


def test_a_token_of_a_longer_stage_or_a_higher_masking_rate_costs_more() -> None:
    file = RECIPES / "retrievabert-1.3b.yaml"
    recipe = load_yaml(Recipe, file)
    flops = training_flops(recipe, 99_584)
    of_token = [f / stage.seq_length for f, stage in zip(flops, recipe.curriculum, strict=True)]
    assert of_token == sorted(of_token) and of_token[0] < of_token[3]
    masked_more = load_yaml(Recipe, file, ["curriculum.1.masking_probability=0.3"])
    other = training_flops(masked_more, 99_584)
    assert other[1] > flops[1] and (other[0], other[2:]) == (flops[0], flops[2:])
