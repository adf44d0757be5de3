"""Small corpora and a recipe over them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from data_prep.tokenizer import Tokenizer
from retrieva_pretrain.data.corpora import Corpora
from retrieva_pretrain.recipe.schema import Recipe

Documents = Sequence[Sequence[int]]
MakeRecipe = Callable[..., Recipe]
OpenRun = Callable[..., tuple[Recipe, Corpora]]


def recipe_over(
    tokenizer: Path,
    blend: Sequence[Mapping[str, Any]],
    stages: Sequence[tuple[int, int]],
    *,
    global_batch_size: int = 4,
    held_out_fraction: float = 0.0,
    seed: int = 1,
    masking_probability: float = 0.15,
    samples_per_corpus: int = 16,
    data: Mapping[str, Any] | None = None,
    objective: Mapping[str, Any] | None = None,
    evaluation: Mapping[str, Any] | None = None,
) -> Recipe:
    """A recipe of (seq_length, train_iters) stages over a blend."""
    return Recipe.model_validate(
        {
            "name": "data",
            "seed": seed,
            "model": {
                "num_layers": 1,
                "hidden_size": 8,
                "ffn_hidden_size": 8,
                "num_attention_heads": 1,
                "num_query_groups": 1,
                "max_position_embeddings": 4096,
            },
            "tokenizer": {"model": str(tokenizer)},
            "data": {
                "blend": [dict(entry) for entry in blend],
                "held_out_fraction": held_out_fraction,
                **(data or {}),
            },
            "objective": {"masking_probability": masking_probability, **(objective or {})},
            "optimizer": {"lr": 1.0},
            "global_batch_size": global_batch_size,
            "curriculum": [
                {"seq_length": length, "train_iters": steps, "max_micro_batch_size": 1}
                for length, steps in stages
            ],
            "evaluation": {"samples_per_corpus": samples_per_corpus, **(evaluation or {})},
        }
    )


@pytest.fixture
def make_recipe() -> MakeRecipe:
    """Makes a recipe: see `recipe_over`."""
    return recipe_over


@pytest.fixture
def ordinary_ids(small_tokenizer: Tokenizer) -> list[int]:
    """The ids of the small tokenizer that text can hold."""
    special = set(small_tokenizer.special_ids)
    return [number for number in range(small_tokenizer.vocab_size) if number not in special]


@pytest.fixture
def open_run(tmp_path: Path, make_corpus: Callable[..., Path], small_tokenizer: Tokenizer) -> OpenRun:
    """Writes corpora (documents by name) and opens a recipe over them: the recipe and its corpora."""

    def open_run(
        corpora: Mapping[str, Documents],
        stages: Sequence[tuple[int, int]],
        *,
        weights: Sequence[float] | None = None,
        pieces: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> tuple[Recipe, Corpora]:
        blend = []
        for number, (name, documents) in enumerate(corpora.items()):
            prefix = tmp_path / name
            if not prefix.with_name(name + ".bin").exists():
                make_corpus(tmp_path, name, documents, **(pieces or {}))
            blend.append({"path": str(prefix), "weight": weights[number] if weights else None})
        recipe = recipe_over(small_tokenizer.path, blend, stages, **options)
        return recipe, Corpora.open(recipe)

    return open_run
