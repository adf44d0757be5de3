"""Tables: the best is marked, seeds are averaged, and published rows that cannot be right say so."""

from __future__ import annotations

import pytest
from rich.console import Console

from retrieva_pretrain.evaluation.summary import as_json, best_cell, grid_table, markdown, rows, scores_table
from retrieva_pretrain.evaluation.tasks import TASKS, GridPoint, Protocol, Result


def result(rate: float, epochs: int, seed: int, pearson: float) -> Result:
    return Result(GridPoint(rate, epochs, seed), {"pearson": pearson, "spearman": pearson - 0.1}, 61.0, "cpu")


RESULTS = [
    result(5e-5, 3, 1, 0.80),
    result(5e-5, 3, 2, 0.90),
    result(2e-5, 4, 1, 0.86),
    result(2e-5, 4, 2, 0.87),
]


def shown(what: object, width: int = 200) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(what)
    return console.export_text()


def test_the_grid_of_the_protocol_has_six_points() -> None:
    names = [point.name for point in Protocol().points()]
    assert len(names) == len(set(names)) == 6
    assert "lr2e-05_epochs4_seed42" in names


def test_the_best_is_that_of_the_mean_over_seeds() -> None:
    best = best_cell(TASKS["jsts"], RESULTS)
    assert (best.learning_rate, best.epochs) == (2e-5, 4)
    assert best.mean["pearson"] == pytest.approx(0.865)
    assert best.spread["pearson"] == pytest.approx(0.00707, abs=1e-5)
    text = shown(grid_table(TASKS["jsts"], RESULTS))
    assert "* 2e-05" in text and "0.850 ± 0.071" in text and "2m02s" in text
    assert as_json({"jsts": RESULTS})["jsts"]["best"]["mean"]["pearson"] == pytest.approx(0.865)


def test_the_two_published_rows_with_em_above_f1_are_marked_as_shifted() -> None:
    shifted = {name for name, _, is_shifted in rows({}) if is_shifted}
    assert shifted == {
        "ku-nlp/deberta-v3-base-japanese (published)",
        "retrieva-jp/bert-1.3b (published)",
    }
    ours = {"ours": {"jsts": {"pearson": 0.5, "spearman": 0.4}}}
    for text in (shown(scores_table(ours)), markdown(ours, "note")):
        assert "0.916*" in text and "0.879*" in text and "cannot be" in text
        assert "0.500" in text and "0.946" in text
        assert "0.946*" not in text
