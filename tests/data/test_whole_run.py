"""Whole runs, read to the end: nothing twice for any corpora and stages, and the curriculum of 1.3 B."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from data_prep.tokenizer import Tokenizer
from retrieva_pretrain.data.batches import TrainingSamples
from retrieva_pretrain.data.corpora import Corpora
from retrieva_pretrain.errors import CorpusError
from retrieva_pretrain.recipe.schema import Recipe

MakeCorpus = Callable[..., Path]
MakeRecipe = Callable[..., Recipe]

LENGTHS = st.lists(st.integers(0, 60), min_size=1, max_size=30).filter(lambda lengths: sum(lengths) > 30)
STAGES = st.lists(st.tuples(st.integers(8, 40), st.integers(1, 10)), min_size=1, max_size=4).map(sorted)


def read_in_the_order_of_the_run(samples: TrainingSamples, steps: int) -> dict[str, np.ndarray]:
    """All tokens of a run by corpus, special tokens of the windows left out."""
    read: dict[str, list[np.ndarray]] = {name: [] for name in samples.positions.names}
    for step in range(steps):
        numbers = samples.step(step)
        corpus, _ = samples.positions.blend.corpus_of(numbers)
        for index, row in zip(corpus.tolist(), samples.samples(numbers)["labels"], strict=True):
            read[samples.positions.names[index]].append(row[1:-1])
    return {name: np.concatenate([np.zeros(0, dtype=np.int64), *rows]) for name, rows in read.items()}


def assert_every_epoch_is_the_corpus(tokens: NDArray[np.int64], trained: NDArray[np.int64]) -> None:
    """Every token as often as an epoch holds it; in an epoch that the run leaves, no more often."""
    once = np.bincount(trained, minlength=400)
    for start in range(0, len(tokens), len(trained)):
        epoch = tokens[start : start + len(trained)]
        times = np.bincount(epoch, minlength=400)
        assert (times == once).all() if len(epoch) == len(trained) else (times <= once).all()


def test_nothing_twice_in_any_epoch_of_any_corpora_and_stages(
    tmp_path: Path, make_corpus: MakeCorpus, make_recipe: MakeRecipe, small_tokenizer: Tokenizer
) -> None:
    folders = count()

    @given(
        lengths=st.lists(LENGTHS, min_size=1, max_size=3),
        stages=STAGES,
        global_batch_size=st.integers(1, 7),
        held_out_fraction=st.sampled_from([0.0, 0.01, 0.3]),
        weighted=st.booleans(),
        seed=st.integers(0, 2**31),
    )
    @settings(max_examples=60, deadline=None)
    def read_to_the_end(
        lengths: list[list[int]],
        stages: list[tuple[int, int]],
        global_batch_size: int,
        held_out_fraction: float,
        weighted: bool,
        seed: int,
    ) -> None:
        folder = tmp_path / str(next(folders))
        draw = np.random.default_rng(seed)
        text = {
            f"corpus_{k}": [draw.integers(8, 400, n).tolist() for n in documents]
            for k, documents in enumerate(lengths)
        }
        blend = [
            {"path": str(make_corpus(folder, name, documents)), "weight": k + 0.5 if weighted else None}
            for k, (name, documents) in enumerate(text.items())
        ]
        recipe = make_recipe(
            small_tokenizer.path,
            blend,
            stages,
            global_batch_size=global_batch_size,
            held_out_fraction=held_out_fraction,
            seed=seed,
        )
        try:
            corpora = Corpora.open(recipe)
        except CorpusError as error:
            # Drawn now and then: the one document with text is held out. A refusal is right, and no run.
            assert "no text to train on" in str(error)
            reject()
        steps = sum(train_iters for _, train_iters in stages)
        read = read_in_the_order_of_the_run(TrainingSamples(recipe, corpora), steps)
        assert sum(map(len, read.values())) == sum(n * global_batch_size * (s - 2) for s, n in stages)
        for corpus in corpora.corpora:
            held_out = set(corpus.held_out_stream().documents.tolist())
            trained = np.concatenate(
                [corpus.dataset.document(n) for n in range(corpus.dataset.num_documents) if n not in held_out]
            )
            assert_every_epoch_is_the_corpus(read[corpus.name], trained)

    read_to_the_end()


@pytest.mark.parametrize("step", [0, 30_999, 31_000, 249_999, 250_000, 441_999, 442_000, 453_999])
def test_any_step_of_the_1_3b_curriculum_is_there_at_once_for_any_number_of_gpus(
    tmp_path: Path,
    make_corpus: MakeCorpus,
    make_recipe: MakeRecipe,
    small_tokenizer: Tokenizer,
    step: int,
) -> None:
    draw = np.random.default_rng(0)
    blend = [
        {"path": str(make_corpus(tmp_path, name, list(draw.integers(8, 400, (documents, 500)))))}
        for name, documents in (("ja", 2000), ("en", 800))
    ]
    recipe = make_recipe(
        small_tokenizer.path,
        blend,
        [(128, 31_000), (256, 219_000), (512, 192_000), (2048, 12_000)],
        global_batch_size=1024,
        held_out_fraction=0.001,
    )
    length = next(
        s for s, end in ((128, 31_000), (256, 250_000), (512, 442_000), (2048, 454_000)) if step < end
    )
    corpora = Corpora.open(recipe)
    samples = TrainingSamples(recipe, corpora)
    whole = samples.samples(samples.step(step))
    assert whole["input_ids"].shape == (1024, length)
    assert (whole["labels"][:, 0] == corpora.special.cls).all()
    assert (whole["labels"][:, -1] == corpora.special.sep).all()
    assert whole["loss_mask"].sum(axis=1).max() <= -(-15 * length // 100)
    # Rank 31 of 32, alone and without a past.
    restarted = TrainingSamples(recipe, Corpora.open(recipe))
    numbers, part = next(restarted.micro_batches(step, 31, 32, 8))
    assert numbers.tolist() == list(range(step * 1024 + 992, step * 1024 + 1000))
    for name, rows in part.items():
        assert np.array_equal(rows, whole[name][992:1000])


def test_a_step_past_the_end_of_the_run_is_refused(
    tmp_path: Path, make_corpus: MakeCorpus, make_recipe: MakeRecipe, small_tokenizer: Tokenizer
) -> None:
    prefix = make_corpus(tmp_path, "ja", [[20] * 50])
    recipe = make_recipe(small_tokenizer.path, [{"path": str(prefix)}], [(16, 4)])
    samples = TrainingSamples(recipe, Corpora.open(recipe))
    for step in (4, -1):
        with pytest.raises(IndexError, match=f"step {step} is outside the run of 4 steps"):
            samples.samples(samples.step(step))
