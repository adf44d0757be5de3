"""The recipes in recipes/: the reference recipe holds the published values and runs on the published GPUs."""

from __future__ import annotations

from pathlib import Path

import pytest

from retrieva_pretrain.curriculum.schedule import learning_rate
from retrieva_pretrain.curriculum.stages import Curriculum
from retrieva_pretrain.planning.parameters import count_parameters
from retrieva_pretrain.recipe.layout import stage_layouts
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


@pytest.fixture(scope="module")
def reference() -> Recipe:
    return load_yaml(Recipe, RECIPES / "retrievabert-1.3b.yaml")


@pytest.mark.parametrize(
    ("gpus", "batches"),
    [
        (4, [(128, 2), (64, 4), (32, 8), (8, 32)]),
        (8, [(128, 1), (64, 2), (32, 4), (8, 16)]),
        (16, [(64, 1), (64, 1), (32, 2), (8, 8)]),
        (32, [(32, 1), (32, 1), (32, 1), (8, 4)]),
    ],
)
def test_the_reference_recipe_resolves_on_4_to_32_gpus(
    reference: Recipe, gpus: int, batches: list[tuple[int, int]]
) -> None:
    layouts = stage_layouts(reference, gpus)
    assert [(layout.micro_batch_size, layout.num_microbatches) for layout in layouts] == batches
    assert all(m * n * gpus == 1024 for m, n in batches)


def test_the_reference_recipe_has_the_published_steps_samples_and_tokens(reference: Recipe) -> None:
    curriculum = Curriculum(reference)
    assert curriculum.total_steps == 454_000
    assert curriculum.total_samples == 464_896_000
    assert curriculum.total_tokens == 187_301_888_000
    assert [(s.seq_length, s.train_iters) for s in reference.curriculum] == [
        (128, 31_000),
        (256, 219_000),
        (512, 192_000),
        (2048, 12_000),
    ]


def test_the_reference_recipe_has_the_published_learning_rate(reference: Recipe) -> None:
    assert reference.optimizer.warmup_steps(454_000) == 4_540
    assert (reference.optimizer.lr, reference.optimizer.min_lr) == (1.5e-4, 1.0e-6)
    assert reference.optimizer.lr_warmup_fraction == 0.01
    assert learning_rate(reference, 0) == 0.0
    assert learning_rate(reference, 4_540) == 1.5e-4
    assert learning_rate(reference, 4_541) < 1.5e-4
    assert learning_rate(reference, 454_000) == 1.0e-6
    assert reference.optimizer.lr_decay_style == "linear"
    assert reference.schedule_scope == "run"


def test_the_reference_recipe_has_the_published_shape(reference: Recipe) -> None:
    assert reference.model.model_dump() == {
        "num_layers": 48,
        "hidden_size": 1536,
        "ffn_hidden_size": 4096,
        "num_attention_heads": 24,
        "num_query_groups": 1,
        "max_position_embeddings": 2048,
        "layernorm_epsilon": 1e-12,
        "hidden_dropout": 0.1,
        "attention_dropout": 0.1,
        "init_method_std": 0.02,
        "share_embeddings_and_output_weights": True,
    }
    assert reference.precision == "bf16"
    assert reference.global_batch_size == 1024


def test_the_reference_recipe_names_the_published_data_and_tokenizer(reference: Recipe) -> None:
    assert [Path(corpus.path).name for corpus in reference.data.blend] == [
        "ja_cc",
        "refinedweb",
        "zh_wiki",
        "ko_wiki",
        "the_stack",
    ]
    assert {corpus.weight for corpus in reference.data.blend} == {None}
    assert Path(reference.tokenizer.model).name == "llm-jp-tokenizer-100k.ver3.0b1.model"
    assert reference.tokenizer.make_vocab_size_divisible_by == 128


def test_what_is_not_published_has_megatrons_defaults_and_a_mark(reference: Recipe) -> None:
    optimizer = reference.optimizer
    assert (optimizer.adam_beta1, optimizer.adam_beta2, optimizer.adam_eps) == (0.9, 0.999, 1e-8)
    assert (optimizer.weight_decay, optimizer.clip_grad) == (0.01, 1.0)
    assert reference.objective.masking_probability == 0.15
    assert reference.seed == 1234
    lines = (RECIPES / "retrievabert-1.3b.yaml").read_text(encoding="utf-8").splitlines()
    for key in ("seed:", "held_out_fraction:", "masking_probability:", "adam_beta1:", "curriculum:"):
        assert any(key in line and "not published" in line for line in lines), key
    assert any("schedule_scope:" in line and "inferred" in line for line in lines)


def test_the_reference_model_has_1_30_billion_parameters(reference: Recipe) -> None:
    count = count_parameters(reference.model, 99_584)
    assert count.word_embedding == 152_961_024
    assert count.position_embedding == 3_145_728
    assert count.layer == 23_808_640
    assert round(count.total / 1e9, 2) == 1.30


def test_the_demo_is_the_reference_in_small(reference: Recipe) -> None:
    demo = load_yaml(Recipe, RECIPES / "demo.yaml")
    assert len(demo.curriculum) == len(reference.curriculum)
    assert demo.model.num_query_groups == reference.model.num_query_groups == 1
    assert demo.precision == reference.precision
    assert demo.optimizer.lr_decay_style == reference.optimizer.lr_decay_style
    for gpus in (1, 2, 4):
        stage_layouts(demo, gpus)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_in_the_folder_resolves_on_one_gpu_and_on_eight(path: Path) -> None:
    recipe = load_yaml(Recipe, path)
    for gpus in (1, 8):
        assert len(stage_layouts(recipe, gpus)) == len(recipe.curriculum)
