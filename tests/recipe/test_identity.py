"""What a checkpoint and a recipe must agree on, and what a restart may change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from retrieva_pretrain.recipe.identity import differences, identity
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import ModelConfig, OptimizerConfig, Recipe, Stage

SMALL = Path(__file__).parent / "small.yaml"


def of(*overrides: str, corpora: str = "c", tokenizer: str = "t") -> dict[str, Any]:
    recipe = load_yaml(Recipe, SMALL, overrides)
    paths = [corpus.path for corpus in recipe.data.blend]
    return identity(recipe, {path: f"{corpora}{n}" for n, path in enumerate(paths)}, tokenizer)


@pytest.mark.parametrize(
    "override",
    [
        "name=other",
        "runs_dir=elsewhere",
        "parallelism={tensor_model_parallel_size: 2, pipeline_model_parallel_size: 2}",
        "parallelism.use_distributed_optimizer=false",
        "curriculum.0.max_micro_batch_size=1",
        "curriculum.1.name=second",
        "checkpoint.save_interval=7",
        "evaluation.eval_interval=7",
        "evaluation.masking_probability=0.3",
        "logging.tensorboard=false",
        "tokenizer.model=moved.model",
        "data.blend.0.path=moved/ja_cc",
        "data.index_dir=/scratch/indexes",
        "data.prefetch_micro_batches=0",
        "logging.peak_tflops_per_gpu=989",
    ],
)
def test_a_restart_may_change_where_and_how_fast_it_runs(override: str) -> None:
    assert differences(of(), of(override)) == []


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("seed=7", "seed: 1234 -> 7"),
        ("model.hidden_dropout=0.0", "model.hidden_dropout: 0.1 -> 0.0"),
        ("optimizer.lr=1e-3", "optimizer.lr: 0.002 -> 0.001"),
        ("schedule_scope=stage", "schedule_scope: run -> stage"),
        ("precision=fp32", "precision: bf16 -> fp32"),
        ("global_batch_size=32", "global_batch_size: 64 -> 32"),
        ("curriculum.2.train_iters=9", "curriculum.2.train_iters: 250 -> 9"),
        ("data.blend.1.weight=0.3", "data.blend.1.weight: 0.2 -> 0.3"),
        ("data.held_out_fraction=0.1", "data.held_out_fraction: 0.05 -> 0.1"),
        ("objective.masking_probability=0.3", "objective.masking_probability: 0.15 -> 0.3"),
        ("objective.masking_unit=span", "objective.masking_unit: token -> span"),
        ("objective.mask_replace_prob=0.7", "objective.mask_replace_prob: 0.8 -> 0.7"),
        ("curriculum.0.masking_probability=0.3", "curriculum.0.masking_probability: None -> 0.3"),
        ("data.reset_attention_mask=true", "data.reset_attention_mask: False -> True"),
        ("data.reset_position_ids=true", "data.reset_position_ids: False -> True"),
        ("tokenizer.make_vocab_size_divisible_by=64", "tokenizer.make_vocab_size_divisible_by: 128 -> 64"),
    ],
)
def test_what_decides_the_weights_may_not_change(override: str, line: str) -> None:
    assert differences(of(), of(override)) == [line]


def test_a_field_that_nobody_declared_free_is_fixed() -> None:
    free = {
        "name",
        "runs_dir",
        "parallelism",
        "kernels",
        "checkpoint",
        "evaluation",
        "faults",
        "logging",
        "deterministic",
    }
    assert set(of()) == set(Recipe.model_fields) - free
    assert set(of()["curriculum"][0]) == set(Stage.model_fields) - {
        *("max_micro_batch_size", "name", "recompute_granularity", "recompute_num_layers")
    }
    for section, model in (("model", ModelConfig), ("optimizer", OptimizerConfig)):
        assert set(of()[section]) == set(model.model_fields)


def test_stages_that_are_split_added_or_removed_are_seen() -> None:
    stage = "{seq_length: 32, train_iters: %d, max_micro_batch_size: 32}"
    one, two = f"curriculum=[{stage % 100}]", f"curriculum=[{stage % 50}, {stage % 50}]"
    assert [line.partition(":")[0] for line in differences(of(one), of(two))] == ["curriculum"]
    assert len(differences(of(two), of(one))) == 1


def test_corpora_in_another_order_are_seen() -> None:
    before = of("data.blend=[{path: a}, {path: b}]")
    assert differences(before, of("data.blend=[{path: a}]"))[0].startswith("data.blend: ")
    swapped = {**before, "data": {**before["data"], "blend": before["data"]["blend"][::-1]}}
    assert [line.partition(":")[0] for line in differences(before, swapped)] == [
        "data.blend.0.path",
        "data.blend.1.path",
    ]


def test_other_corpora_and_another_tokenizer_are_seen() -> None:
    assert differences(of(), of(corpora="d"))[0] == "data.blend.0.path: c0 -> d0"
    assert differences(of(), of(tokenizer="u")) == ["tokenizer.model: t -> u"]


def test_every_difference_is_told_in_a_line_of_its_own() -> None:
    lines = differences(
        of(),
        of(
            "seed=1",
            "model.num_layers=2",
            "curriculum=[]".replace("[]", "[{seq_length: 32, train_iters: 100, max_micro_batch_size: 1}]"),
        ),
    )
    assert len(lines) == 3
    assert lines[-1].startswith("curriculum: ")


def test_an_identity_survives_json() -> None:
    assert differences(of(), json.loads(json.dumps(of()))) == []


def test_a_key_that_only_one_side_has_is_seen() -> None:
    assert differences({"a": {"b": 1}}, {"a": {}}) == ["a.b: 1 -> None"]
    assert differences({}, {"a": 1}) == ["a: None -> 1"]
