"""Masked language modelling on the fly."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieva_pretrain.data.masking import Masker

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
