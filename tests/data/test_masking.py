"""Masked language modelling on the fly."""

from __future__ import annotations

import hashlib
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.tokenizer import Tokenizer
from retrieva_pretrain.data.masking import Masker, Replacements, SpanLengths
from retrieva_pretrain.data.words import Words

VOCABULARY = 1000
SPECIAL = [0, 1, 2, 3, 4, 5, 6, 7]
MASK = 3


def masker(probability: float = 0.15, seed: int = 1) -> Masker:
    return Masker(VOCABULARY, SPECIAL, MASK, probability, seed)


def text(rows: int, length: int, *, special_share: float = 0.05, seed: int = 0) -> np.ndarray:
    """Windows [rows, length] of ordinary tokens with special ones in between."""
    draw = np.random.default_rng(seed)
    tokens = draw.integers(len(SPECIAL), VOCABULARY, (rows, length))
    tokens[draw.random(tokens.shape) < special_share] = 2
    tokens[:, 0], tokens[:, -1] = 5, 6
    return tokens


@given(
    probability=st.floats(0.01, 0.99),
    length=st.integers(8, 100),
    special_share=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
@settings(deadline=None)
def test_a_fixed_share_of_each_sample_s_ordinary_tokens_is_masked(
    probability: float, length: int, special_share: float, seed: int
) -> None:
    tokens = text(5, length, special_share=special_share, seed=seed)
    masked = masker(probability).mask(tokens, np.arange(5))
    ordinary = (~np.isin(tokens, SPECIAL)).sum(axis=1)
    chosen = masked["loss_mask"].sum(axis=1)
    for n, k in zip(ordinary.tolist(), chosen.tolist(), strict=True):
        assert k == (max(1, math.floor(probability * n + 0.5)) if n else 0)
        assert k <= math.ceil(probability * length)


@given(seed=st.integers(0, 2**62), special_share=st.floats(0, 1))
@settings(deadline=None)
def test_special_tokens_are_never_masked_and_never_put_in(seed: int, special_share: float) -> None:
    tokens = text(8, 64, special_share=special_share)
    masked = masker(0.5, seed).mask(tokens, np.arange(8))
    special = np.isin(tokens, SPECIAL)
    assert not masked["loss_mask"][special].any()
    assert np.array_equal(masked["input_ids"][special], tokens[special])
    put_in = masked["input_ids"][masked["input_ids"] != tokens]
    assert set(np.unique(put_in[np.isin(put_in, SPECIAL)]).tolist()) <= {MASK}
    assert put_in.size == 0 or put_in.max() < VOCABULARY


def test_tokens_outside_the_chosen_positions_stay_and_labels_are_the_text() -> None:
    tokens = text(16, 128)
    before = tokens.copy()
    masked = masker().mask(tokens, np.arange(16))
    untouched = masked["loss_mask"] == 0
    assert np.array_equal(masked["input_ids"][untouched], before[untouched])
    assert np.array_equal(masked["labels"], before)
    assert {name: array.dtype.name for name, array in masked.items()} == {
        "input_ids": "int64",
        "labels": "int64",
        "loss_mask": "float32",
    }


def test_of_the_chosen_tokens_80_percent_become_the_mask_10_random_and_10_stay() -> None:
    tokens = text(2000, 128)
    masked = masker().mask(tokens, np.arange(2000))
    chosen = masked["loss_mask"] == 1
    ids, was = masked["input_ids"][chosen], tokens[chosen]
    assert (ids == MASK).mean() == pytest.approx(0.8, abs=0.01)
    assert (ids == was).mean() == pytest.approx(0.1, abs=0.01)
    random = ids[(ids != MASK) & (ids != was)]
    assert len(random) / len(ids) == pytest.approx(0.1, abs=0.01)
    assert len(np.unique(random)) > 0.95 * (VOCABULARY - len(SPECIAL))


def test_every_position_is_chosen_equally_often() -> None:
    tokens = text(20_000, 32, special_share=0)
    share = masker().mask(tokens, np.arange(20_000))["loss_mask"].mean(axis=0)
    assert share[0] == share[-1] == 0
    assert np.abs(share[1:-1] - share[1:-1].mean()).max() < 0.015


def test_masks_depend_on_the_sample_s_number_and_the_seed_not_on_the_batch() -> None:
    tokens, numbers = text(12, 64), np.array([5, 900_000_000, 7, 1, 2**42, 3, 8, 2, 11, 12, 13, 14])
    together = masker().mask(tokens, numbers)
    for row in range(12):
        alone = masker().mask(tokens[row : row + 1], numbers[row : row + 1])
        for name in together:
            assert np.array_equal(alone[name][0], together[name][row])
    same_text = np.repeat(tokens[:1], 2, axis=0)
    two = masker().mask(same_text, np.array([1, 2]))
    assert not np.array_equal(two["loss_mask"][0], two["loss_mask"][1])
    other = masker(seed=2).mask(tokens, numbers)
    assert not np.array_equal(other["loss_mask"], together["loss_mask"])


def test_a_sample_without_ordinary_tokens_is_left_whole() -> None:
    tokens = np.full((2, 16), 2)
    tokens[0, 5] = 500
    masked = masker().mask(tokens, np.arange(2))
    assert masked["loss_mask"].sum(axis=1).tolist() == [1, 0]
    assert np.array_equal(masked["input_ids"][1], tokens[1])


# Units: words and spans.


class EveryOther:
    """Words of a made-up vocabulary: a token of an odd number goes on with the word before it."""

    def begin(self, tokens: np.ndarray) -> np.ndarray:
        begins = tokens % 2 == 0
        begins[:, 0] = True
        return begins


UNITS: dict[str, dict[str, Any]] = {
    "token": {},
    "whole_word": {"words": EveryOther()},
    "span": {"words": EveryOther(), "spans": SpanLengths(3.8, 10)},
    "long_span": {"words": EveryOther(), "spans": SpanLengths(5.0, 6)},
}


def unit_masker(unit: str, probability: float = 0.15, seed: int = 1, **options: Any) -> Masker:
    return Masker(VOCABULARY, SPECIAL, MASK, probability, seed, **UNITS[unit], **options)


def units_of(tokens: np.ndarray) -> list[list[int]]:
    """The columns of each word of one row, special tokens left out."""
    begins = EveryOther().begin(tokens[None])[0]
    words: list[list[int]] = []
    for column, token in enumerate(tokens.tolist()):
        if token in SPECIAL:
            words.append([])
        elif begins[column] or column == 0 or tokens[column - 1] in SPECIAL:
            words.append([column])
        else:
            words[-1].append(column)
    return [word for word in words if word]


@pytest.mark.parametrize("unit", UNITS)
@given(
    probability=st.floats(0.01, 0.99),
    length=st.integers(8, 100),
    special_share=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
@settings(deadline=None, max_examples=50)
def test_every_unit_spends_the_same_budget_to_the_token(
    unit: str, probability: float, length: int, special_share: float, seed: int
) -> None:
    tokens = text(4, length, special_share=special_share, seed=seed)
    masked = unit_masker(unit, probability, seed).mask(tokens, np.arange(4) + seed)
    special = np.isin(tokens, SPECIAL)
    ordinary = (~special).sum(axis=1)
    chosen = masked["loss_mask"].sum(axis=1)
    for n, k in zip(ordinary.tolist(), chosen.tolist(), strict=True):
        assert k == (max(1, math.floor(probability * n + 0.5)) if n else 0)
        assert k <= max(1, math.ceil(probability * length)), "the model has no more slots"
    assert not masked["loss_mask"][special].any()
    assert np.array_equal(masked["input_ids"][special], tokens[special])


@pytest.mark.parametrize("unit", UNITS)
@given(seed=st.integers(0, 2**62), probability=st.floats(0.05, 0.9), first=st.integers(0, 2**42))
@settings(deadline=None, max_examples=25)
def test_any_unit_is_masked_alike_in_any_micro_batch(
    unit: str, seed: int, probability: float, first: int
) -> None:
    tokens, numbers = text(6, 48, seed=seed % 1000), np.arange(first, first + 6)
    masker = unit_masker(unit, probability, seed)
    together = masker.mask(tokens, numbers)
    for size in (1, 2, 4):
        for start in range(0, 6, size):
            part = masker.mask(tokens[start : start + size], numbers[start : start + size])
            assert all(np.array_equal(part[name], together[name][start : start + size]) for name in part)


def test_masks_are_the_same_for_ever() -> None:
    # Changed on purpose only: a run that is going on would mask otherwise after its next restart.
    digests = {}
    for unit in UNITS:
        masked = unit_masker(unit).mask(text(64, 128), np.arange(10**9, 10**9 + 64))
        whole = b"".join(masked[name].tobytes() for name in ("input_ids", "loss_mask"))
        digests[unit] = hashlib.sha256(whole).hexdigest()[:16]
    assert digests == {
        "token": "fce6374f66fcdbfb",
        "whole_word": "c6d0d6439c0e4e81",
        "span": "3cc3529055d30cf8",
        "long_span": "83f4d885e6575c26",
    }


@given(seed=st.integers(0, 10_000), probability=st.floats(0.05, 0.6), special_share=st.floats(0, 0.5))
@settings(deadline=None, max_examples=60)
def test_whole_words_are_whole_but_for_one_that_the_budget_cuts(
    seed: int, probability: float, special_share: float
) -> None:
    tokens = text(6, 80, seed=seed, special_share=special_share)
    chosen = unit_masker("whole_word", probability, seed).mask(tokens, np.arange(6))["loss_mask"] == 1
    for row in range(6):
        cut = 0
        for word in units_of(tokens[row]):
            inside = chosen[row, word].tolist()
            # What is left of a word that was cut is its beginning.
            assert inside == sorted(inside, reverse=True)
            cut += 0 < sum(inside) < len(inside)
        assert cut <= 1


@given(seed=st.integers(0, 10_000), probability=st.floats(0.05, 0.4))
@settings(deadline=None, max_examples=60)
def test_spans_are_runs_of_whole_words_but_for_one_that_the_budget_cuts(
    seed: int, probability: float
) -> None:
    tokens = text(6, 120, seed=seed, special_share=0.03)
    chosen = unit_masker("span", probability, seed).mask(tokens, np.arange(6))["loss_mask"] == 1
    for row in range(6):
        inside = [chosen[row, word].tolist() for word in units_of(tokens[row])]
        assert sum(0 < sum(word) < len(word) for word in inside) <= 1


def test_lengths_of_spans_are_geometric_with_the_mean_asked_for_and_cut_at_the_longest() -> None:
    # One word a token and a rate so low that two spans hardly ever touch: runs are spans.
    tokens = np.full((4, 1_000_000), 100)
    chosen = unit_masker("span", 0.005).mask(tokens, np.arange(4))["loss_mask"]
    edges = np.diff(chosen, axis=1, prepend=0, append=0)
    lengths = np.nonzero(edges == -1)[1] - np.nonzero(edges == 1)[1]
    assert len(lengths) > 5000
    assert (lengths > 10).mean() < 0.01
    assert lengths.mean() == pytest.approx(3.8, abs=0.15)
    share = np.bincount(lengths)[1:11] / len(lengths)
    q = SpanLengths(3.8, 10).probability
    law = [*(q * (1 - q) ** np.arange(9)), (1 - q) ** 9]
    assert share == pytest.approx(law, abs=0.02)


@pytest.mark.parametrize(("mean", "longest"), [(3.8, 10), (1.0, 10), (10.0, 10), (2.5, 3), (30.0, 100)])
def test_the_mean_length_of_a_span_is_the_one_asked_for(mean: float, longest: int) -> None:
    q = SpanLengths(mean, longest).probability
    expected = (
        sum(min(k, longest) * q * (1 - q) ** (k - 1) for k in range(1, 20_000)) if q > 1e-6 else longest
    )
    assert expected == pytest.approx(mean, abs=1e-3)


def test_a_span_is_replaced_as_a_whole_and_a_word_token_by_token() -> None:
    tokens = text(400, 128, special_share=0)
    for unit, whole in (("span", True), ("whole_word", False)):
        masked = unit_masker(unit, 0.3).mask(tokens, np.arange(400))
        chosen = masked["loss_mask"] == 1
        is_mask = masked["input_ids"] == MASK
        split = 0
        for row in range(400):
            for word in units_of(tokens[row]):
                if len(word) > 1 and chosen[row, word].all():
                    split += 0 < is_mask[row, word].sum() < len(word)
        assert bool(split == 0) is whole


def test_the_shares_of_what_becomes_of_the_chosen_tokens_are_the_recipe_s() -> None:
    tokens = text(2000, 128)
    for mask, random in ((1.0, 0.0), (0.0, 0.0), (0.55, 0.25), (0.0, 1.0)):
        masked = unit_masker("token", replacements=Replacements(mask, random)).mask(tokens, np.arange(2000))
        ids, was = (a[masked["loss_mask"] == 1] for a in (masked["input_ids"], tokens))
        assert (ids == MASK).mean() == pytest.approx(mask, abs=0.01)
        assert ((ids != MASK) & (ids != was)).mean() == pytest.approx(random, abs=0.01)


def test_words_of_real_text_are_masked_whole(llm_jp_model: Path) -> None:
    tokenizer = Tokenizer(llm_jp_model)
    sentence = (
        "コンピュータープログラミングのアーキテクチャーをRetrieva株式会社の𠮷野家さんがスクレイピングする。"
        * 4
    )
    ids = tokenizer.encode([sentence])[0].astype(np.int64)
    words = Words(tokenizer)
    masker = Masker(
        tokenizer.vocab_size, tokenizer.special_ids, tokenizer.piece_id("<MASK>"), 0.3, 1, words=words
    )
    tokens = np.repeat(ids[None], 200, axis=0)
    chosen = masker.mask(tokens, np.arange(200))["loss_mask"] == 1
    bounds = [*np.flatnonzero(words.begin(ids[None])[0]).tolist(), len(ids)]
    many = [(a, b) for a, b in pairwise(bounds) if b - a > 1]
    assert len(many) >= 12
    whole = sum(chosen[row, a:b].all() for row in range(200) for a, b in many)
    cut = sum(0 < chosen[row, a:b].sum() < b - a for row in range(200) for a, b in many)
    assert cut <= 200
    assert whole > 3 * cut
