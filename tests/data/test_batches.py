"""The samples of a run: the design's invariants 2 to 4."""

from __future__ import annotations

import hashlib
import pickle
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_prep.build import build
from data_prep.corpus import CorpusConfig
from data_prep.tokenizer import Tokenizer
from retrieva_pretrain.data.batches import HeldOutSamples, TrainingSamples
from retrieva_pretrain.data.corpora import Corpora
from retrieva_pretrain.data.masking import Samples
from retrieva_pretrain.errors import CorpusError
from retrieva_pretrain.recipe.schema import Recipe

OpenRun = Callable[..., tuple[Recipe, Corpora]]
MakeRecipe = Callable[..., Recipe]
Documents = list[list[int]]
STAGES = [(8, 9), (13, 7), (20, 8), (64, 3)]
TOTAL_STEPS = sum(steps for _, steps in STAGES)


@pytest.fixture
def random_corpora(ordinary_ids: list[int]) -> dict[str, Documents]:
    """Three corpora of random text: many short documents, a few, and one long document."""
    draw = random.Random(3)
    return {
        "many": [draw.choices(ordinary_ids, k=draw.randint(0, 60)) for _ in range(150)],
        "few": [draw.choices(ordinary_ids, k=draw.randint(1, 30)) for _ in range(20)],
        "long": [draw.choices(ordinary_ids, k=2000), [ordinary_ids[0]], [ordinary_ids[1]]],
    }


def open_samples(open_run: OpenRun, corpora: dict[str, Documents], **options: object) -> TrainingSamples:
    return TrainingSamples(*open_run(corpora, STAGES, **{"global_batch_size": 8, **options}))


def equal(one: Samples, other: Samples) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def digest(samples: Samples) -> str:
    return hashlib.sha256(b"".join(samples[name].tobytes() for name in sorted(samples))).hexdigest()


# Invariant 2: the step is the whole position.


def test_the_step_is_the_whole_position(open_run: OpenRun, random_corpora: dict[str, Documents]) -> None:
    ran_on = open_samples(open_run, random_corpora)
    from_the_start = [ran_on.samples(ran_on.step(step)) for step in range(TOTAL_STEPS)]
    order = list(range(TOTAL_STEPS))
    random.Random(0).shuffle(order)
    for step in order:
        restarted = open_samples(open_run, random_corpora)
        assert equal(restarted.samples(restarted.step(step)), from_the_start[step])


def test_the_order_and_the_masks_are_the_same_for_ever(
    open_run: OpenRun, random_corpora: dict[str, Documents]
) -> None:
    # Changed on purpose only: a run that is going on would read other text after its next restart. The
    # tokenizer's own ids do not enter, its special ones aside.
    samples = open_samples(open_run, random_corpora, weights=[0.5, 0.3, 0.2])
    assert [digest(samples.samples(samples.step(step)))[:16] for step in (0, 9, TOTAL_STEPS - 1)] == [
        "e5d3d567e35bf3bd",
        "7f3a3081720cae4a",
        "a17f8c16a1adf832",
    ]


def test_another_seed_reads_and_masks_in_another_order(
    open_run: OpenRun, random_corpora: dict[str, Documents]
) -> None:
    one, other = (open_samples(open_run, random_corpora, seed=seed) for seed in (1, 2))
    a, b = one.samples(one.step(0)), other.samples(other.step(0))
    assert not np.array_equal(a["labels"], b["labels"])
    assert not np.array_equal(a["loss_mask"], b["loss_mask"])


def test_a_data_worker_gets_the_samples_by_name_not_a_copy_of_the_corpora(
    open_run: OpenRun, ordinary_ids: list[int]
) -> None:
    samples = open_samples(open_run, {"big": [ordinary_ids[:300] * 100] * 20})
    expected = samples.samples(samples.step(3))
    sent = pickle.dumps(samples)
    assert len(sent) < 1_000_000, "the corpus alone has 1.2 MB"
    assert equal(pickle.loads(sent).samples(samples.step(3)), expected)


# Invariant 3: elastic.


@pytest.mark.parametrize("step", [0, 8, 9, 20, TOTAL_STEPS - 1])
def test_samples_of_a_step_are_the_same_for_any_number_of_gpus_and_micro_batch_size(
    open_run: OpenRun, random_corpora: dict[str, Documents], step: int
) -> None:
    samples = open_samples(open_run, random_corpora, held_out_fraction=0.1)
    whole = samples.samples(samples.step(step))
    for data_parallel_size in (1, 2, 4, 8):
        for micro_batch_size in (1, 2, 4, 8):
            if micro_batch_size * data_parallel_size > 8:
                continue
            numbers, parts = [], []
            for rank in range(data_parallel_size):
                for part, batch in samples.micro_batches(step, rank, data_parallel_size, micro_batch_size):
                    assert len(part) == micro_batch_size
                    numbers.append(part)
                    parts.append(batch)
            assert np.array_equal(np.concatenate(numbers), samples.step(step))
            assert equal({name: np.concatenate([p[name] for p in parts]) for name in whole}, whole)


def test_a_sample_does_not_depend_on_its_batch(
    open_run: OpenRun, random_corpora: dict[str, Documents]
) -> None:
    samples = open_samples(open_run, random_corpora)
    numbers = samples.step(12)[[5, 0, 7, 2]]
    together = samples.samples(numbers)
    for row, number in enumerate(numbers.tolist()):
        alone = samples.samples(np.array([number]))
        assert all(np.array_equal(alone[name][0], together[name][row]) for name in together)


@pytest.mark.parametrize(("rank", "size"), [(0, 3), (2, 2), (-1, 2)])
def test_a_share_that_does_not_exist_is_refused(
    open_run: OpenRun, random_corpora: dict[str, Documents], rank: int, size: int
) -> None:
    with pytest.raises(ValueError, match="cannot be divided"):
        next(open_samples(open_run, random_corpora).micro_batches(0, rank, size, 1))


# Invariant 4: nothing twice.


@pytest.mark.parametrize("seed", range(5))
def test_nothing_twice_before_an_epoch_has_ended(
    open_run: OpenRun, ordinary_ids: list[int], seed: int
) -> None:
    # Every token of a corpus is another one, so it can be seen which ones an epoch has read.
    ids = iter(ordinary_ids)
    draw = random.Random(seed)
    corpora = {
        name: [[next(ids) for _ in range(draw.randint(1, longest))] for _ in range(count)]
        for name, longest, count in (("a", 12, 25), ("b", 20, 8), ("tiny", 2, 3))
    }
    samples = open_samples(open_run, corpora, seed=seed, weights=[0.6, 0.3, 0.1])
    read: dict[str, list[int]] = {name: [] for name in corpora}
    for step in range(TOTAL_STEPS):
        numbers = samples.step(step)
        for number, row in zip(numbers.tolist(), samples.samples(numbers)["labels"].tolist(), strict=True):
            read[samples.provenance(number).corpus] += row[1:-1]
    for name, documents in corpora.items():
        text = {token for document in documents for token in document}
        seen = [token for token in read[name] if token in text]
        epochs = [seen[start : start + len(text)] for start in range(0, len(seen), len(text))]
        assert len(epochs) > 2, "the run is too short to show anything"
        assert all(set(epoch) == text for epoch in epochs[:-1])
        assert len(set(epochs[-1])) == len(epochs[-1])
        assert samples.positions.consumed(TOTAL_STEPS)[list(corpora).index(name)] == len(read[name])


def test_documents_keep_their_text_and_their_end(
    open_run: OpenRun, random_corpora: dict[str, Documents], small_tokenizer: Tokenizer
) -> None:
    samples = open_samples(open_run, random_corpora)
    end = small_tokenizer.piece_id("</s>")
    for step in range(TOTAL_STEPS):
        numbers = samples.step(step)
        for number, row in zip(numbers.tolist(), samples.samples(numbers)["labels"].tolist(), strict=True):
            assert row[0] == small_tokenizer.piece_id("<CLS>")
            assert row[-1] == small_tokenizer.piece_id("<SEP>")
            origin = samples.provenance(number)
            text = [t for n in origin.documents for t in [*random_corpora[origin.corpus][n], end]]
            window = row[1:-1]
            assert any(text[i : i + len(window)] == window for i in range(len(text) - len(window) + 1))


def test_a_huge_document_does_not_fill_steps_in_a_row(open_run: OpenRun, ordinary_ids: list[int]) -> None:
    draw = random.Random(0)
    short = [draw.choices(ordinary_ids, k=40) for _ in range(300)]
    recipe, corpora = open_run(
        {"web": [draw.choices(ordinary_ids, k=12_000), *short]}, [(42, 70)], global_batch_size=8
    )
    samples = TrainingSamples(recipe, corpora)
    of_huge = [
        sum(samples.provenance(n).documents == [0] for n in samples.step(step).tolist()) for step in range(70)
    ]
    assert sum(of_huge) > 250
    assert sum(count == 8 for count in of_huge) < 5
    assert all(any(count < 8 for count in of_huge[start : start + 4]) for start in range(60))


# Held-out text.


def test_held_out_documents_are_never_trained_on(
    open_run: OpenRun, random_corpora: dict[str, Documents]
) -> None:
    recipe, corpora = open_run(random_corpora, STAGES, global_batch_size=24, held_out_fraction=0.2)
    samples = TrainingSamples(recipe, corpora)
    assert min(samples.positions.epochs(TOTAL_STEPS)) > 1, "too short a run to read everything"
    trained: dict[str, set[int]] = {name: set() for name in random_corpora}
    for number in range(TOTAL_STEPS * 24):
        origin = samples.provenance(number)
        trained[origin.corpus] |= set(origin.documents)
    for corpus in corpora.corpora:
        held_out = set(corpus.held_out_stream().documents.tolist())
        assert held_out
        assert trained[corpus.name] == set(range(corpus.dataset.num_documents)) - held_out


def test_held_out_samples_are_the_same_for_every_seed_and_blend(
    open_run: OpenRun, random_corpora: dict[str, Documents]
) -> None:
    one, other = (
        HeldOutSamples(*open_run(random_corpora, STAGES, held_out_fraction=0.2, seed=seed, weights=weights))
        for seed, weights in ((1, [1.0, 1.0, 1.0]), (2, [5.0, 1.0, 1.0]))
    )
    assert one.corpora() == other.corpora() == ["many", "few", "long"]
    for name in one.corpora():
        assert equal(one.samples(name, 20), other.samples(name, 20))


def test_held_out_samples_are_the_held_out_text_cut_into_whole_windows(
    open_run: OpenRun, random_corpora: dict[str, Documents], small_tokenizer: Tokenizer
) -> None:
    recipe, corpora = open_run(random_corpora, STAGES, held_out_fraction=0.2, samples_per_corpus=5)
    held_out = HeldOutSamples(recipe, corpora)
    end = small_tokenizer.piece_id("</s>")
    documents = corpora.corpora[0].held_out_stream().documents.tolist()
    text = [token for n in documents for token in [*random_corpora["many"][n], end]]
    samples = held_out.samples("many", 20)
    assert samples["labels"].shape == (5, 20)
    assert samples["labels"][:, 1:-1].ravel().tolist() == text[: 5 * 18]
    assert samples["loss_mask"].sum(axis=1).min() >= 1
    # Shorter than one window: the text is repeated.
    short = held_out.samples("long", 512)["labels"]
    whole = [
        token
        for n in corpora.corpora[2].held_out_stream().documents.tolist()
        for token in [*random_corpora["long"][n], end]
    ]
    assert len(whole) < 510, "this seed holds the long document out"
    assert short[0, 1:-1].tolist() == (whole * 510)[:510]


def test_without_a_held_out_fraction_everything_is_trained_on(
    open_run: OpenRun, random_corpora: dict[str, Documents]
) -> None:
    recipe, corpora = open_run(random_corpora, STAGES)
    assert HeldOutSamples(recipe, corpora).corpora() == []
    assert [c.training_tokens for c in corpora.corpora] == [c.dataset.num_tokens for c in corpora.corpora]


# Masks, and damage that sizes do not show.


def test_masks_never_touch_special_tokens_or_the_ends_of_documents(
    open_run: OpenRun, random_corpora: dict[str, Documents], small_tokenizer: Tokenizer
) -> None:
    samples = open_samples(open_run, random_corpora, masking_probability=0.9)
    for step in range(TOTAL_STEPS):
        batch = samples.samples(samples.step(step))
        special = np.isin(batch["labels"], small_tokenizer.special_ids)
        assert not batch["loss_mask"][special].any()
        assert np.array_equal(batch["input_ids"][special], batch["labels"][special])


def test_token_ids_that_the_tokenizer_does_not_have_are_refused(
    open_run: OpenRun, ordinary_ids: list[int]
) -> None:
    samples = open_samples(open_run, {"damaged": [[*ordinary_ids[:50], 60_000]] * 4})
    with pytest.raises(CorpusError, match=r"damaged\.bin .* 400 pieces.*retrieva data verify"):
        for step in range(TOTAL_STEPS):
            samples.samples(samples.step(step))


def test_samples_of_two_stages_cannot_be_asked_for_at_once(
    open_run: OpenRun, random_corpora: dict[str, Documents]
) -> None:
    samples = open_samples(open_run, random_corpora)
    with pytest.raises(ValueError, match="two stages"):
        samples.samples(np.array([0, 8 * 9, 1]))


def test_real_text_with_the_real_tokenizer(
    shared: Path, llm_jp_model: Path, tmp_path: Path, make_recipe: MakeRecipe
) -> None:
    tokenizer = Tokenizer(llm_jp_model)
    build(
        CorpusConfig.model_validate(
            {
                "name": "ja_cc",
                "source": "llm_jp_cc",
                "files": [str(shared / "corpora" / "llm-jp-cc" / "CC-MAIN-2017-04.jsonl.gz")],
                "tokenizer": {"model": str(llm_jp_model)},
            }
        ),
        tmp_path,
    )
    recipe = make_recipe(
        llm_jp_model,
        [{"path": str(tmp_path / "ja_cc")}],
        [(128, 2), (2048, 1)],
        global_batch_size=16,
        held_out_fraction=0.1,
    )
    corpora = Corpora.open(recipe)
    samples = TrainingSamples(recipe, corpora)
    for step, length in ((0, 128), (1, 128), (2, 2048)):
        batch = samples.samples(samples.step(step))
        assert batch["input_ids"].shape == (16, length)
        text = tokenizer.decode(batch["labels"][0].tolist())
        assert sum("\u3041" <= character <= "\u30ff" for character in text) > length / 10
        chosen = batch["loss_mask"] == 1
        assert chosen.mean() == pytest.approx(0.15, abs=0.01)
        assert (batch["input_ids"][chosen] == tokenizer.piece_id("<MASK>")).mean() == pytest.approx(
            0.8, abs=0.1
        )
