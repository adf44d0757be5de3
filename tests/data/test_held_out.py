"""Which documents are kept for evaluation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieva_pretrain.data.held_out import is_held_out


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
