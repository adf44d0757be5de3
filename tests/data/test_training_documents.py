"""Corpora so large that their order is kept in files, through to the command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from data_prep.indexed import IndexedDataset
from data_prep.tokenizer import Tokenizer
from retrieva_pretrain.curriculum.hashing import key_of
from retrieva_pretrain.curriculum.permutation import KeyedPermutation
from retrieva_pretrain.data import training_documents
from retrieva_pretrain.data.batches import HeldOutSamples, TrainingSamples
from retrieva_pretrain.data.corpora import Corpora
from retrieva_pretrain.data.held_out import HeldOut
from retrieva_pretrain.data.indexing import ensure_indexes, epochs_from
from retrieva_pretrain.data.training_documents import IN_MEMORY_DOCUMENTS
from retrieva_pretrain.errors import CorpusError
from retrieva_pretrain.recipe.schema import Recipe
from tests.conftest import write_large_corpus
from tests.data.conftest import recipe_over

DOCUMENTS = IN_MEMORY_DOCUMENTS + 70_001
FRACTION = 0.01


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, small_tokenizer: Tokenizer) -> Path:
    """The prefix of a large corpus; only to be copied."""
    prefix = tmp_path_factory.mktemp("large") / "ja"
    write_large_corpus(prefix, small_tokenizer, DOCUMENTS)
    return prefix


@pytest.fixture
def large(tmp_path: Path, written: Path) -> Path:
    """The prefix of a large corpus in a folder of its own."""
    return Path(shutil.copytree(written.parent, tmp_path / "data")) / written.name


def recipe_for(prefix: Path, tokenizer: Tokenizer, epochs: float, **options: object) -> Recipe:
    """A recipe that reads a corpus so many times."""
    tokens = IndexedDataset(prefix).num_tokens
    stages = [(64, round(epochs * tokens / 512 / 62 / 2)), (128, round(epochs * tokens / 512 / 126 / 2))]
    blend = [{"path": str(prefix)}]
    return recipe_over(
        tokenizer.path,
        blend,
        stages,
        global_batch_size=512,
        **{"held_out_fraction": FRACTION, **options},  # type: ignore[arg-type]
    )


def index_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if ".index" in path.name)


def test_nothing_is_written_and_nothing_counted_by_opening_a_large_corpus(
    large: Path, small_tokenizer: Tokenizer
) -> None:
    before = sorted(large.parent.iterdir())
    recipe = recipe_for(large, small_tokenizer, 1.5)
    corpora = Corpora.open(recipe)
    # Evaluation and plans read from corpora that nobody trains on yet.
    assert HeldOutSamples(recipe, corpora).samples("ja", 64)["labels"].shape == (16, 64)
    assert sorted(large.parent.iterdir()) == before


def test_an_epoch_is_the_keyed_order_of_the_training_documents_and_no_other_epochs(
    large: Path, small_tokenizer: Tokenizer
) -> None:
    corpora = Corpora.open(recipe_for(large, small_tokenizer, 1.0))
    (corpus,) = corpora.corpora
    held_out = HeldOut("ja", DOCUMENTS, FRACTION)(np.arange(DOCUMENTS))
    lengths = np.asarray(corpus.dataset.sequence_lengths)
    assert corpus.training_tokens == lengths[~held_out].sum()
    assert corpus.training.documents == (~held_out).sum()
    stream = corpus.training_stream(seed=5)
    orders = []
    for epoch in (0, 1):
        order = stream.epoch(epoch).documents_between(0, corpus.training_tokens)
        shuffled = KeyedPermutation(DOCUMENTS, key_of(5, "document order", "ja", epoch))(np.arange(DOCUMENTS))
        assert np.array_equal(order, shuffled[~held_out[shuffled]])
        assert len(np.unique(order)) == len(order) == corpus.training.documents
        orders.append(order)
    assert (orders[0] == orders[1]).mean() < 0.001
    assert len(index_files(large.parent)) == 3


def test_samples_are_the_same_with_files_and_without(
    large: Path, small_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_for(large, small_tokenizer, 2.2)
    steps = [0, 7, sum(stage.train_iters for stage in recipe.curriculum) - 1]

    def read() -> list[np.ndarray]:
        samples = TrainingSamples(recipe, Corpora.open(recipe))
        return [samples.samples(samples.step(step))["labels"] for step in steps]

    with_files = read()
    files = index_files(large.parent)
    assert files
    for name in files:
        (large.parent / name).unlink()
    monkeypatch.setattr(training_documents, "IN_MEMORY_DOCUMENTS", DOCUMENTS)
    assert all(np.array_equal(a, b) for a, b in zip(with_files, read(), strict=True))
    assert index_files(large.parent) == []


def test_what_a_run_reads_is_indexed_before_it_and_nothing_else(
    large: Path, small_tokenizer: Tokenizer
) -> None:
    recipe = recipe_for(large, small_tokenizer, 2.5)
    corpora = Corpora.open(recipe)
    total = sum(stage.train_iters for stage in recipe.curriculum)
    half = next(step for step in range(total) if epochs_from(recipe, corpora, step)[0].start == 1)
    late = [indexed.epoch for indexed in ensure_indexes(recipe, corpora, half) if indexed.built]
    assert late == [1, 2]  # the counts were made to know how far an epoch reaches
    made = [(indexed.epoch, indexed.built) for indexed in ensure_indexes(recipe, corpora)]
    assert made == [(None, False), (0, True), (1, False), (2, False)]
    files = index_files(large.parent)
    samples = TrainingSamples(recipe, Corpora.open(recipe))
    for step in {*range(0, total, 10), half - 1, half, half + 1, total - 1}:
        samples.samples(samples.step(step))
    assert index_files(large.parent) == files


@pytest.mark.parametrize("change", [{"seed": 9}, {"held_out_fraction": 0.02}, {"corpus": "other text"}])
def test_an_index_of_another_seed_fraction_or_text_is_not_used(
    large: Path, small_tokenizer: Tokenizer, change: dict[str, object]
) -> None:
    recipe = recipe_for(large, small_tokenizer, 0.9)
    files = list(ensure_indexes(recipe, Corpora.open(recipe)))
    if change.pop("corpus", None):
        write_large_corpus(large, small_tokenizer, DOCUMENTS, seed=1)
    other = recipe_for(large, small_tokenizer, 0.9, **change)
    again = list(ensure_indexes(other, Corpora.open(other)))
    # The counts do not depend on the seed.
    assert [indexed.built for indexed in again] == ([False, True] if "seed" in change else [True, True])
    if "seed" not in change:
        assert not {indexed.file for indexed in files} & {indexed.file for indexed in again}


@pytest.mark.parametrize("document", [1000, DOCUMENTS // 2, DOCUMENTS - 1000])
@pytest.mark.parametrize("array", ["lengths", "pointers", "documents"])
def test_damage_anywhere_in_a_large_index_is_found_when_it_is_counted(
    large: Path, small_tokenizer: Tokenizer, array: str, document: int
) -> None:
    width, start = {
        "lengths": (4, 34),
        "pointers": (8, 34 + 4 * DOCUMENTS),
        "documents": (8, 34 + 12 * DOCUMENTS),
    }[array]
    with Path(f"{large}.idx").open("r+b") as stream:
        stream.seek(start + width * document)
        stream.write((77_777).to_bytes(width, "little"))
    recipe = recipe_for(large, small_tokenizer, 1.0)
    with pytest.raises(CorpusError, match=r"ja\.idx does not match ja\.bin.*build the corpus again"):
        list(ensure_indexes(recipe, Corpora.open(recipe)))
    assert index_files(large.parent) == []


# The command line.


def write_recipe(path: Path, recipe: Recipe) -> Path:
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json", exclude_none=True)), encoding="utf-8")
    return path


def retrieva(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line; it must not load torch."""
    program = (
        "import atexit, sys\n"
        "from retrieva_pretrain.cli import main\n"
        "atexit.register(lambda: print('LOADED', {'torch', 'megatron'} & set(sys.modules), file=sys.stderr))\n"
        "sys.argv[0] = 'retrieva'\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert "LOADED set()" in done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_the_command_indexes_once_and_the_second_time_does_nothing(
    large: Path, tmp_path: Path, small_tokenizer: Tokenizer
) -> None:
    recipe = str(write_recipe(tmp_path / "recipe.yaml", recipe_for(large, small_tokenizer, 1.5)))
    folder = tmp_path / "indexes"
    first = retrieva("data", "index", recipe, f"data.index_dir={folder}")
    assert first.returncode == 0, first.stderr
    assert "ja: order of epoch 1: indexed in" in first.stdout
    assert "3 index files made, 0 there already" in first.stdout
    assert index_files(large.parent) == []
    stamps = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert len(stamps) == 3
    second = retrieva("data", "index", recipe, f"data.index_dir={folder}", "--json")
    assert [(f["epoch"], f["built"]) for f in json.loads(second.stdout)] == [
        (None, False),
        (0, False),
        (1, False),
    ]
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == stamps


def test_the_command_makes_a_damaged_file_again_and_fewer_epochs_when_asked(
    large: Path, tmp_path: Path, small_tokenizer: Tokenizer
) -> None:
    recipe = str(write_recipe(tmp_path / "recipe.yaml", recipe_for(large, small_tokenizer, 2.5)))
    first = json.loads(retrieva("data", "index", recipe, "--epochs", "1", "--json").stdout)
    assert [f["epoch"] for f in first] == [None, 0]
    order = Path(first[1]["file"])
    whole = order.read_bytes()
    order.write_bytes(whole[:-1000] + bytes(1000))
    second = json.loads(retrieva("data", "index", recipe, "--epochs", "1", "--json").stdout)
    assert [f["built"] for f in second] == [False, True]
    assert order.read_bytes() == whole


def test_a_folder_that_cannot_be_written_to_ends_in_one_message(
    large: Path, tmp_path: Path, small_tokenizer: Tokenizer
) -> None:
    recipe = str(write_recipe(tmp_path / "recipe.yaml", recipe_for(large, small_tokenizer, 1.0)))
    overrides = []
    if os.geteuid() == 0:
        overrides = ["data.index_dir=/proc"]  # the only folder that root may not write to
    else:
        large.parent.chmod(0o555)
    done = retrieva("data", "index", recipe, *overrides)
    large.parent.chmod(0o755)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("retrieva: ")]
    assert line.startswith("retrieva: data.index_dir: ")
    assert "Name a folder that can be written to" in line


def test_small_corpora_are_said_to_need_nothing(
    tmp_path: Path, make_corpus: object, small_tokenizer: Tokenizer
) -> None:
    prefix = make_corpus(tmp_path, "few", [[30] * 40] * 20)  # type: ignore[operator]
    recipe = recipe_over(small_tokenizer.path, [{"path": str(prefix)}], [(16, 4)])
    before = sorted(tmp_path.iterdir())
    done = retrieva("data", "index", str(write_recipe(tmp_path / "recipe.yaml", recipe)))
    assert "few: small enough" in done.stdout
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "recipe.yaml"])
