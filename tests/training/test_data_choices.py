"""What a recipe chooses about its data, in a real run."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from retrieva_pretrain.data.batches import TrainingSamples
from retrieva_pretrain.data.corpora import Corpora
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe

if TYPE_CHECKING:
    from tests.training.conftest import World

pytestmark = pytest.mark.engine


def test_stages_train_at_their_own_rates_and_the_log_tells_how_often_each_corpus_is_read(
    world: World,
) -> None:
    stages = [(16, "null"), (32, 0.4), (32, 0.05)]
    curriculum = ", ".join(
        f"{{seq_length: {length}, train_iters: 2, max_micro_batch_size: 4, masking_probability: {rate}}}"
        for length, rate in stages
    )
    overrides = ["objective.masking_unit=span", f"curriculum=[{curriculum}]"]
    records = world.train(*overrides, processes=1)
    scored = [r["scored_tokens"] for r in records if r["kind"] == "train"]
    recipe = load_yaml(Recipe, world.recipe, overrides)
    samples = TrainingSamples(recipe, Corpora.open(recipe))
    assert scored == [int(samples.samples(samples.step(step))["loss_mask"].sum()) for step in range(6)]
    assert scored[2] > 2 * scored[0] * 32 / 16 > 4 * scored[4]
    log = next(world.folder.glob("train-*.log")).read_text()
    for number, (name, share) in enumerate((("a", 70), ("b", 30))):
        times = ", ".join(f"{samples.positions.epochs(step)[number]:.2f}" for step in (2, 4, 6))
        tokens = samples.positions.epoch_tokens[number]
        assert (
            f"corpus {name}: {tokens:,} tokens, {share}.00% of the samples, read {times} times by the end of each"
            " stage"
        ) in log


def test_attention_inside_documents_is_refused_over_corpora_that_do_not_mark_them(world: World) -> None:
    message = world.refused("data.reset_attention_mask=true")
    assert message.startswith("retrieva: data.reset_attention_mask: ")
    assert "`bos: <CLS>` and `eod: <SEP>`" in message
    assert "leave reset_attention_mask false" in message
    assert not (world.folder / "runs").exists()


@pytest.mark.slow
def test_attention_inside_documents_and_recomputation_train_on_every_layout(
    world: World, make_corpus: Callable[..., Path]
) -> None:
    draw = random.Random(2)
    for name in ("a", "b"):
        documents = [[draw.randint(200, 299) for _ in range(draw.randint(3, 40))] for _ in range(90)]
        make_corpus(world.folder / "inside", name, documents, bos="<CLS>", eod="<SEP>")
    settings = [
        f"data.blend=[{{path: {world.folder}/inside/a}}, {{path: {world.folder}/inside/b}}]",
        "data.reset_attention_mask=true",
        "data.reset_position_ids=true",
        "model.hidden_dropout=0.0",
        "model.attention_dropout=0.0",
        "precision=fp32",
    ]
    one = world.losses("name=one", *settings, processes=1)
    assert one[-1] < one[0] - 0.1
    again = [
        "curriculum.1.recompute_granularity=selective",
        "curriculum.2.recompute_granularity=full",
        "parallelism.pipeline_model_parallel_size=2",
    ]
    two = world.losses("name=two", *settings, *again, processes=2)
    np.testing.assert_allclose(two, one, rtol=1e-5)
    across = world.losses("name=across", *settings, "data.reset_attention_mask=false", processes=1)
    assert abs(across[0] - one[0]) > 1e-4, "the documents' neighbours were seen all along"
