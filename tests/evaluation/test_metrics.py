"""The metrics, against values worked out by hand and scripts of others."""

from __future__ import annotations

import numpy as np
import pytest

from retrieva_pretrain.errors import EvaluationError
from retrieva_pretrain.evaluation import metrics


@pytest.mark.parametrize(
    ("prediction", "answer", "em", "f1"),
    [
        ("東京", "東京", 1, 1),
        ("東京。", "東京", 1, 1),  # a final full stop is not counted
        ("Tokyo", "tokyo", 1, 1),
        ("285  km/h", "285 km/h", 1, 1),
        ("東京都", "東京", 0, 0.8),  # 2 x 2 / (3 + 2): characters, not words
        ("京東", "東京", 0, 1),  # a bag of characters
        ("大阪", "東京", 0, 0),
        ("", "東京", 0, 0),
        ("東京", "「東京」", 0, 2 / 3),  # brackets stay: no punctuation is taken away
        ("the cat", "cat", 0, 0.6),  # articles stay as well; 2 x 3 / (7 + 3)
    ],
)
def test_answers_are_compared_as_jglue_does(prediction: str, answer: str, em: float, f1: float) -> None:
    assert metrics.exact_match(prediction, [answer]) == em
    assert metrics.f1_of_characters(prediction, [answer]) == pytest.approx(f1)


def test_the_best_of_several_answers_counts_and_questions_are_averaged() -> None:
    scores = metrics.question_answering(
        {"a": "東京都", "b": "大阪"}, {"a": ["東京", "東京都"], "b": ["東京", "大阪市"]}
    )
    assert scores == {"f1": pytest.approx((1 + 0.8) / 2), "em": 0.5}


def test_a_question_without_a_prediction_is_not_passed_over() -> None:
    with pytest.raises(EvaluationError, match="1 of 2 questions have no prediction, such as b"):
        metrics.question_answering({"a": ""}, {"a": ["x"], "b": ["y"]})


def test_exact_match_above_f1_is_refused_as_interchanged() -> None:
    with pytest.raises(EvaluationError, match="cannot be"):
        metrics.refuse_em_above_f1({"em": 0.916, "f1": 0.879})
    metrics.refuse_em_above_f1({"em": 0.879, "f1": 0.916})


def test_accuracy_and_correlations_are_those_of_the_textbook() -> None:
    pytest.importorskip("sklearn", reason="the eval extra is not installed")
    assert metrics.accuracy(np.array([1, 0, 1, 1]), np.array([1, 0, 0, 1])) == {"accuracy": 0.75}
    # Anscombe's first data set: 0.816 (Anscombe 1973); ranks 0.818.
    x = np.array([10, 8, 13, 9, 11, 14, 6, 4, 12, 7, 5], dtype=float)
    y = np.array([8.04, 6.95, 7.58, 8.81, 8.33, 9.96, 7.24, 4.26, 10.84, 4.82, 5.68])
    found = metrics.correlations(y, x)
    assert found["pearson"] == pytest.approx(0.81642, abs=1e-5)
    assert found["spearman"] == pytest.approx(0.81818, abs=1e-5)
    assert metrics.correlations(np.zeros(3), np.array([1.0, 2.0, 3.0])) == {"pearson": 0.0, "spearman": 0.0}
