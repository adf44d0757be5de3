"""The model: its size, its head on scored positions, and what the recipe says it is."""

from __future__ import annotations

import textwrap
from collections.abc import Callable

import pytest

Run = Callable[[str], str]
pytestmark = pytest.mark.engine

PREPARE = """
import sys
from pathlib import Path
import torch
from retrieva_pretrain.model.build import build_model, transformer_config
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.training.distributed import initialize, shut_down

def recipe(file, *overrides):
    return load_yaml(Recipe, Path(file), list(overrides))
"""


@pytest.fixture
def run(run_python: Callable[..., str]) -> Callable[[str], str]:
    """Runs the lines of a check after the imports that all of them need."""
    return lambda body: run_python(PREPARE + textwrap.dedent(body))


def test_the_model_of_the_1_3_b_recipe_has_1_30_b_parameters_and_the_plan_counts_the_same(run: Run) -> None:
    printed = run("""
        from retrieva_pretrain.planning.parameters import count_parameters
        r = recipe("recipes/retrievabert-1.3b.yaml")
        initialize(r)
        with torch.device("meta"):
            model = build_model(r, 99584, perform_initialization=False)
        built = sum(p.numel() for p in model.parameters())
        assert all(p.is_meta for p in model.parameters())
        print(built, count_parameters(r.model, 99584).total)
        shut_down()
    """)
    built, planned = map(int, printed.split())
    assert built == planned == 1_301_388_032


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_the_plan_counts_what_is_built_for_any_number_of_query_groups(groups: int, run: Run) -> None:
    printed = run(f"""
        from retrieva_pretrain.planning.parameters import count_parameters
        for tied in ("true", "false"):
            r = recipe("recipes/demo.yaml", "model.num_query_groups={groups}",
                       "model.share_embeddings_and_output_weights=" + tied)
            if tied == "true":
                initialize(r)
            built = sum(p.numel() for p in build_model(r, 1024).parameters())
            print(built, count_parameters(r.model, 1024).total)
        shut_down()
    """)
    for line in printed.splitlines():
        built, planned = line.split()
        assert built == planned


def test_head_and_loss_on_scored_positions_equal_the_full_head_in_value_and_gradient(run: Run) -> None:
    run("""
        r = recipe("recipes/demo.yaml", "precision=fp32", "model.hidden_dropout=0.0", "model.attention_dropout=0.0")
        initialize(r)
        model = build_model(r, 1024)
        torch.manual_seed(1)
        for p in model.parameters():
            p.data += 0.02 * torch.randn_like(p)
        ids = torch.randint(8, 1000, (3, 32))
        labels = torch.randint(8, 1000, (3, 32))
        weights = (torch.rand(3, 32) < 0.2).float()
        full, correct = model(input_ids=ids, labels=labels)
        (full * weights).sum().backward()
        expected = {n: p.grad.clone() for n, p in model.named_parameters()}
        model.zero_grad()
        slots = int(weights.sum(1).max()) + 2
        positions = torch.argsort(weights, dim=1, descending=True, stable=True)[:, :slots]
        sparse, sparse_correct = model(
            input_ids=ids, scored_positions=positions, labels=labels.gather(1, positions)
        )
        chosen = weights.gather(1, positions)
        (sparse * chosen).sum().backward()
        torch.testing.assert_close((sparse * chosen).sum(), (full * weights).sum(), rtol=1e-6, atol=0)
        assert (sparse_correct * chosen).sum() == (correct * weights).sum()
        for n, p in model.named_parameters():
            torch.testing.assert_close(p.grad, expected[n], rtol=1e-4, atol=1e-6, msg=n)
        logits = model(input_ids=ids)
        assert logits.shape == (3, 32, 1024)
        assert torch.equal((logits.argmax(-1) == labels).float(), correct)
        shut_down()
    """)


def test_the_model_is_pre_norm_swiglu_with_biases_query_groups_learned_positions_and_tied_embeddings(
    run: Run,
) -> None:
    run("""
        r = recipe("recipes/demo.yaml", "model.init_method_std=0.02")
        initialize(r)
        model = build_model(r, 1024)
        shapes = {n: tuple(p.shape) for n, p in model.named_parameters()}
        layer = "encoder.layers.0."
        assert shapes[layer + "self_attention.linear_qkv.weight"] == (128 + 2 * 32, 128)  # one query group
        assert shapes[layer + "mlp.linear_fc1.weight"] == (2 * 352, 128)  # gate and up
        assert shapes[layer + "mlp.linear_fc1.bias"] == (2 * 352,)
        assert layer + "input_layernorm.weight" in shapes and layer + "pre_mlp_layernorm.weight" in shapes
        assert "encoder.final_layernorm.weight" in shapes
        assert shapes["embedding.position_embeddings.weight"] == (128, 128)
        assert shapes["output_layer.bias"] == (1024,)
        assert "output_layer.weight" not in shapes  # tied
        assert not any("tokentype" in n or "binary" in n or "pooler" in n for n in shapes)
        config = model.config
        assert config.activation_func is torch.nn.functional.silu and config.gated_linear_unit
        assert config.layernorm_epsilon == 1e-12
        assert model.encoder.layers[0].input_layernorm.eps == 1e-12
        assert config.calculate_per_token_loss
        weight = model.embedding.word_embeddings.weight
        assert abs(weight.std().item() - 0.02) < 0.001
        shut_down()
    """)


def test_weight_decay_leaves_biases_and_norms_alone(run: Run) -> None:
    run("""
        from retrieva_pretrain.model.build import wrap_model
        from retrieva_pretrain.model.optimizer import build_optimizer, set_learning_rate
        r = recipe("recipes/demo.yaml", "optimizer.weight_decay=0.1", "precision=fp32",
                   "parallelism.use_distributed_optimizer=false")
        initialize(r)
        model = wrap_model(r, build_model(r, 1024))
        optimizer = build_optimizer(r, model)
        set_learning_rate(optimizer, r, 3e-4)
        decayed = {id(p) for g in optimizer.param_groups if g["weight_decay"] == 0.1 for p in g["params"]}
        spared = {id(p) for g in optimizer.param_groups if g["weight_decay"] == 0.0 for p in g["params"]}
        assert all(g["lr"] == 3e-4 for g in optimizer.param_groups)
        for name, p in model.named_parameters():
            if name.endswith(".bias") or "layernorm" in name or "layer_norm" in name:
                assert id(p) in spared, name
            else:
                assert id(p) in decayed, name
        shut_down()
    """)
