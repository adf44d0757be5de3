"""The metrics of JGLUE. No torch.

Accuracy is scikit-learn's and the correlations are SciPy's. JSQuAD's exact match and F1 are SQuAD's as JGLUE's authors
changed them for Japanese (their patch of transformers' squad_metrics.py): no articles or punctuation are taken away but
a final 。, and F1 counts characters, so that no word segmentation is needed. No kept library has that.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from retrieva_pretrain.errors import EvaluationError


def accuracy(predictions: npt.NDArray[Any], labels: npt.NDArray[Any]) -> dict[str, float]:
    """Return the share of right predictions; both are [examples]."""
    from sklearn.metrics import accuracy_score

    return {"accuracy": float(accuracy_score(labels, predictions))}


def correlations(predictions: npt.NDArray[Any], labels: npt.NDArray[Any]) -> dict[str, float]:
    """Return Pearson's and Spearman's correlation; both arrays are [examples].

    Predictions that are all the same, as of a model that learnt nothing, have no correlation: 0.
    """
    from scipy.stats import pearsonr, spearmanr

    if np.ptp(predictions) == 0 or np.ptp(labels) == 0:
        return {"pearson": 0.0, "spearman": 0.0}
    return {
        "pearson": float(pearsonr(predictions, labels).statistic),
        "spearman": float(spearmanr(predictions, labels).statistic),
    }


def normalize_answer(text: str) -> str:
    """Return an answer as it is compared: lower case, no final 。, single spaces."""
    return " ".join(text.lower().rstrip("。").split())


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """Return 1 where the prediction is one of the answers, 0 elsewhere."""
    return float(any(normalize_answer(prediction) == normalize_answer(answer) for answer in answers))


def f1_of_characters(prediction: str, answers: Sequence[str]) -> float:
    """Return the best F1 of the prediction's characters, as a bag, over the answers."""
    return max(_f1(normalize_answer(prediction), normalize_answer(answer)) for answer in answers)


def _f1(prediction: str, answer: str) -> float:
    if not prediction or not answer:
        return float(prediction == answer)
    common = sum((Counter(prediction) & Counter(answer)).values())
    return 2 * common / (len(prediction) + len(answer))


def question_answering(
    predictions: Mapping[str, str], references: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """Return the mean exact match and F1 over the questions, by id.

    Raises:
        EvaluationError: a question has no prediction.
    """
    missing = references.keys() - predictions.keys()
    if missing:
        raise EvaluationError(
            f"{len(missing)} of {len(references)} questions have no prediction, such as {sorted(missing)[0]}"
        )
    pairs = [(predictions[name], answers) for name, answers in references.items()]
    scores = {
        "f1": math.fsum(f1_of_characters(*pair) for pair in pairs) / len(pairs),
        "em": math.fsum(exact_match(*pair) for pair in pairs) / len(pairs),
    }
    refuse_em_above_f1(scores)
    return scores


def refuse_em_above_f1(scores: Mapping[str, float]) -> None:
    """Raise EvaluationError where exact match is above F1: every exact match has an F1 of 1, so it cannot be."""
    if scores["em"] > scores["f1"] + 1e-12:
        raise EvaluationError(
            f"exact match {scores['em']:.4f} is above F1 {scores['f1']:.4f}, which cannot be: columns are interchanged"
        )
