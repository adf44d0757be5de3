"""The two formats of a sample: windows with their own <CLS> and <SEP>, and documents that bring theirs."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.tokenizer import Tokenizer
from retrieva_pretrain.data.batches import HeldOutSamples, TrainingSamples
from retrieva_pretrain.data.corpora import Corpora
from retrieva_pretrain.errors import CorpusError
from retrieva_pretrain.recipe.schema import Recipe

OpenRun = Callable[..., tuple[Recipe, Corpora]]
MakeCorpus = Callable[..., Path]
MakeRecipe = Callable[..., Recipe]
STAGES = [(8, 5), (16, 6), (40, 3)]
STEPS = sum(steps for _, steps in STAGES)
BRACKETED = {"bos": "<CLS>", "eod": "<SEP>"}


@pytest.fixture
def documents(ordinary_ids: list[int]) -> dict[str, list[list[int]]]:
    """Two corpora of documents of 1 to 30 tokens."""
    draw = random.Random(7)
    return {
        name: [draw.choices(ordinary_ids, k=draw.randint(1, 30)) for _ in range(count)]
        for name, count in (("a", 60), ("b", 25))
    }


def every_sample(samples: TrainingSamples) -> list[dict[str, Any]]:
    return [samples.samples(samples.step(step)) for step in range(STEPS)]


def test_without_the_options_a_sample_has_neither_segments_nor_positions(
    open_run: OpenRun, documents: Any
) -> None:
    samples = TrainingSamples(*open_run(documents, STAGES))
    assert set(samples.samples(samples.step(0))) == {"input_ids", "labels", "loss_mask"}


def test_documents_with_cls_and_sep_fill_the_whole_window(
    open_run: OpenRun, documents: Any, small_tokenizer: Tokenizer
) -> None:
    recipe, corpora = open_run(documents, STAGES, pieces=BRACKETED)
    samples = TrainingSamples(recipe, corpora)
    start, end = small_tokenizer.piece_id("<CLS>"), small_tokenizer.piece_id("<SEP>")
    inside = 0
    for batch, step in zip(every_sample(samples), range(STEPS), strict=True):
        numbers = samples.step(step).tolist()
        for number, row in zip(numbers, batch["labels"].tolist(), strict=True):
            origin = samples.provenance(number)
            text = [t for n in origin.documents for t in [start, *documents[origin.corpus][n], end]]
            assert any(text[i : i + len(row)] == row for i in range(len(text) - len(row) + 1))
            inside += row[0] != start
    assert inside > 10, "windows begin where the one before them ended, not where a document begins"
    used = int(samples.positions.consumed(STEPS).sum())
    assert used == sum(steps * 4 * length for length, steps in STAGES)


def test_nothing_twice_where_documents_bring_cls_and_sep(open_run: OpenRun, ordinary_ids: list[int]) -> None:
    ids = iter(ordinary_ids)
    draw = random.Random(1)
    corpora = {"only": [[next(ids) for _ in range(draw.randint(1, 20))] for _ in range(25)]}
    samples = TrainingSamples(*open_run(corpora, STAGES, pieces=BRACKETED))
    text = {token for document in corpora["only"] for token in document}
    seen = [
        t for batch in every_sample(samples) for row in batch["labels"].tolist() for t in row if t in text
    ]
    epochs = [seen[start : start + len(text)] for start in range(0, len(seen), len(text))]
    assert len(epochs) > 2
    assert all(set(epoch) == text for epoch in epochs[:-1])


@pytest.mark.parametrize("reset_position_ids", [False, True])
def test_attention_inside_documents_numbers_them_in_every_sample(
    open_run: OpenRun, documents: Any, small_tokenizer: Tokenizer, reset_position_ids: bool
) -> None:
    data = {"reset_attention_mask": True, "reset_position_ids": reset_position_ids}
    recipe, corpora = open_run(documents, STAGES, pieces=BRACKETED, data=data, held_out_fraction=0.2)
    end = small_tokenizer.piece_id("<SEP>")
    samples, held_out = TrainingSamples(recipe, corpora), HeldOutSamples(recipe, corpora)
    for batch in [*every_sample(samples), *(held_out.samples(n, 24) for n in held_out.corpora())]:
        assert ("position_ids" in batch) is reset_position_ids
        for row, tokens in enumerate(batch["labels"].tolist()):
            number, place = 0, 0
            for column, token in enumerate(tokens):
                assert batch["segment_ids"][row, column] == number
                if reset_position_ids:
                    assert batch["position_ids"][row, column] == place
                number, place = (number + 1, 0) if token == end else (number, place + 1)
        assert batch["segment_ids"].dtype == np.int64


def test_positions_alone_can_begin_anew_in_windows_with_cls_and_sep(
    open_run: OpenRun, documents: Any, small_tokenizer: Tokenizer
) -> None:
    recipe, corpora = open_run(documents, STAGES, data={"reset_position_ids": True})
    samples = TrainingSamples(recipe, corpora)
    end = small_tokenizer.piece_id("</s>")
    for batch in every_sample(samples):
        assert "segment_ids" not in batch
        for tokens, places in zip(batch["labels"].tolist(), batch["position_ids"].tolist(), strict=True):
            for column in range(1, len(tokens) - 1):
                assert places[column] == (0 if tokens[column - 1] == end else places[column - 1] + 1)
            assert places[0] == 0
            assert places[-1] == places[-2] + 1, "the window's <SEP> ends the last document"


def test_special_pieces_round_documents_are_never_masked(
    open_run: OpenRun, documents: Any, small_tokenizer: Tokenizer
) -> None:
    recipe, corpora = open_run(documents, STAGES, pieces=BRACKETED, masking_probability=0.9)
    found = 0
    for batch in every_sample(TrainingSamples(recipe, corpora)):
        special = np.isin(batch["labels"], small_tokenizer.special_ids)
        found += special.sum()
        assert not batch["loss_mask"][special].any()
    assert found > 50


@pytest.mark.parametrize("unit", ["token", "whole_word", "span"])
def test_micro_batches_of_every_choice_are_the_samples_of_the_step(
    open_run: OpenRun, documents: Any, unit: str
) -> None:
    recipe, corpora = open_run(
        documents,
        STAGES,
        pieces=BRACKETED,
        data={"reset_attention_mask": True, "reset_position_ids": True},
        objective={"masking_unit": unit},
        global_batch_size=8,
    )
    samples = TrainingSamples(recipe, corpora)
    for step in (0, 7, STEPS - 1):
        whole = samples.samples(samples.step(step))
        for size, micro in ((1, 8), (2, 1), (4, 2), (8, 1)):
            parts = [
                batch for rank in range(size) for _, batch in samples.micro_batches(step, rank, size, micro)
            ]
            for name, rows in whole.items():
                assert np.array_equal(np.concatenate([part[name] for part in parts]), rows)


# Masking rates.


def test_a_stage_s_own_rate_counts_in_that_stage_alone(open_run: OpenRun, documents: Any) -> None:
    recipe, corpora = open_run(documents, [(64, 2), (64, 2), (64, 2)], masking_probability=0.2)
    stages = [
        {**stage.model_dump(), "masking_probability": p}
        for stage, p in zip(recipe.curriculum, (0.4, None, 0.1), strict=True)
    ]
    recipe = Recipe.model_validate({**recipe.model_dump(), "curriculum": stages})
    assert [recipe.masking_probability(stage) for stage in range(3)] == [0.4, 0.2, 0.1]
    samples = TrainingSamples(recipe, corpora)
    for step, rate in enumerate((0.4, 0.4, 0.2, 0.2, 0.1, 0.1)):
        batch = samples.samples(samples.step(step))
        ordinary = 62 - (batch["labels"] == 2).sum(axis=1)
        assert batch["loss_mask"].sum(axis=1).tolist() == np.floor(rate * ordinary + 0.5).tolist()


def test_held_out_text_is_masked_alike_whatever_the_training_does(open_run: OpenRun, documents: Any) -> None:
    kinds: list[dict[str, Any]] = [
        {},
        {"masking_probability": 0.4},
        {"objective": {"masking_unit": "span", "mask_replace_prob": 1.0, "random_replace_prob": 0.0}},
    ]
    held_out = [
        HeldOutSamples(*open_run(documents, STAGES, held_out_fraction=0.3, **kind)).samples("a", 40)
        for kind in kinds
    ]
    for other in held_out[1:]:
        assert all(np.array_equal(other[name], held_out[0][name]) for name in other)
    recipe, corpora = open_run(
        documents, STAGES, held_out_fraction=0.3, evaluation={"masking_probability": 0.5}
    )
    more = HeldOutSamples(recipe, corpora).samples("a", 40)
    assert more["loss_mask"].sum() > 3 * held_out[0]["loss_mask"].sum()


# What does not go together.


def test_corpora_of_two_formats_are_refused(
    tmp_path: Path, make_corpus: MakeCorpus, make_recipe: MakeRecipe, small_tokenizer: Tokenizer
) -> None:
    blend = [
        {"path": str(make_corpus(tmp_path, "windows", [[20] * 50]))},
        {"path": str(make_corpus(tmp_path, "documents", [[20] * 50], **BRACKETED))},
    ]
    with pytest.raises(
        CorpusError, match=r"data\.blend: .*documents has <CLS> .*windows has not; one run has one"
    ):
        Corpora.open(make_recipe(small_tokenizer.path, blend, STAGES))
    with pytest.raises(CorpusError, match=r"data\.reset_attention_mask: .*windows \(data\.blend\.0\)"):
        Corpora.open(make_recipe(small_tokenizer.path, blend, STAGES, data={"reset_attention_mask": True}))


@pytest.mark.parametrize(
    ("pieces", "data", "words"),
    [
        ({}, {"reset_attention_mask": True}, r"data\.reset_attention_mask: .*`bos: <CLS>` and `eod: <SEP>`"),
        ({"eod": "<SEP>"}, {"reset_attention_mask": True}, r"data\.reset_attention_mask: .* false"),
        ({"bos": "<CLS>"}, {}, r"data\.blend\.0\.path: .* begin with <CLS> and end with </s>"),
        (
            {"eod": "▁"},
            {"reset_position_ids": True},
            r"data\.reset_position_ids: .*'▁', which the text itself",
        ),
    ],
)
def test_a_corpus_that_does_not_mark_documents_as_needed_is_refused(
    open_run: OpenRun, documents: Any, pieces: dict[str, str], data: dict[str, bool], words: str
) -> None:
    with pytest.raises(CorpusError, match=words):
        open_run(documents, STAGES, pieces=pieces, data=data)


def test_documents_without_an_end_cannot_begin_at_position_0(
    open_run: OpenRun, documents: Any, tmp_path: Path
) -> None:
    recipe, _ = open_run({"a": documents["a"]}, STAGES, data={"reset_position_ids": True})
    manifest = tmp_path / "a.manifest.json"
    text = manifest.read_text().replace('"append_eod": true', '"append_eod": false')
    end = text[text.index('"eod": {') : text.index("}", text.index('"eod": {')) + 1]
    manifest.write_text(text.replace(end, '"eod": null'))
    with pytest.raises(CorpusError, match=r"data\.reset_position_ids: .*append_eod: true"):
        Corpora.open(recipe)


def test_a_piece_before_documents_that_is_no_cls_leaves_the_window_its_own(
    open_run: OpenRun, documents: Any, small_tokenizer: Tokenizer
) -> None:
    samples = TrainingSamples(*open_run(documents, STAGES, pieces={"bos": "<s>"}))
    batch = samples.samples(samples.step(0))
    assert (batch["labels"][:, 0] == small_tokenizer.piece_id("<CLS>")).all()
    assert samples.positions.special_tokens == 2
