"""Which documents are kept for evaluation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieva_pretrain.curriculum.hashing import hash64, key_of
from retrieva_pretrain.data import held_out
from retrieva_pretrain.data.held_out import HeldOut


def is_held_out(corpus: str, documents: int, fraction: float) -> np.ndarray:
    return HeldOut(corpus, documents, fraction)(np.arange(documents))


def by_looking_at_all_at_once(corpus: str, documents: int, fraction: float) -> np.ndarray:
    """The rule as it can be written where memory is no matter."""
    if fraction <= 0 or documents < 2:
        return np.zeros(documents, dtype=bool)
    hashes = hash64(np.arange(documents), key_of("held out", corpus))
    chosen = hashes < np.uint64(int(fraction * 2.0**64))
    if not chosen.any():
        chosen[np.argmin(hashes)] = True
    if chosen.all():
        chosen[np.argmax(hashes)] = False
    return chosen


@given(
    documents=st.integers(0, 300),
    fraction=st.sampled_from([0.0, 1e-12, 1e-4, 0.01, 0.1, 0.5]),
    name=st.text(max_size=5),
    piece=st.sampled_from([1, 2, 7, 64, 1 << 16]),
)
@settings(deadline=None, max_examples=300)
def test_piece_by_piece_chooses_what_looking_at_all_at_once_chooses(
    documents: int, fraction: float, name: str, piece: int
) -> None:
    expected = by_looking_at_all_at_once(name, documents, fraction)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(held_out, "PIECE", piece)
        rule = HeldOut(name, documents, fraction)
        numbers = [number for piece in rule.numbers() for number in piece.tolist()]
    assert rule(np.arange(documents)).tolist() == expected.tolist()
    assert numbers == np.flatnonzero(expected).tolist()
    # In any order and shape.
    somewhere = np.random.default_rng(0).permutation(documents)[: documents // 2 * 2].reshape(2, -1)
    assert np.array_equal(rule(somewhere), expected[somewhere])


def test_the_share_of_held_out_documents_is_the_fraction() -> None:
    assert is_held_out("ja_cc", 100_000, 0.01).mean() == pytest.approx(0.01, abs=0.002)


@given(documents=st.integers(2, 200), fraction=st.floats(1e-9, 0.5), name=st.text(max_size=5))
@settings(deadline=None)
def test_a_document_is_held_out_and_one_is_trained_on(documents: int, fraction: float, name: str) -> None:
    chosen = is_held_out(name, documents, fraction)
    assert chosen.any()
    assert not chosen.all()


def test_a_larger_fraction_only_adds_documents() -> None:
    few, more = (is_held_out("ja_cc", 5000, fraction) for fraction in (0.01, 0.05))
    assert (more | ~few).all()
    assert more.sum() > few.sum()


def test_every_corpus_has_a_choice_of_its_own_that_is_the_same_for_ever() -> None:
    assert np.flatnonzero(is_held_out("ja_cc", 100, 0.05)).tolist() == [4, 18, 20, 55, 58, 75, 82, 89, 92, 96]
    assert np.flatnonzero(is_held_out("zh_wiki", 100, 0.05)).tolist() == [16, 27, 31, 43, 53, 64, 84]


@pytest.mark.parametrize(("documents", "fraction"), [(0, 0.1), (1, 0.1), (100, 0.0)])
def test_nothing_is_held_out_of_one_document_or_by_a_fraction_of_0(documents: int, fraction: float) -> None:
    assert is_held_out("ja_cc", documents, fraction).tolist() == [False] * documents
