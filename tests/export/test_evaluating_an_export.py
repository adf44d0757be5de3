"""What is exported can be evaluated: from a run's checkpoint to scores by one command, whatever the task."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from data_prep.tokenizer import Tokenizer
from tests.command import retrieva
from tests.evaluation.conftest import jglue  # noqa: F401 (a fixture)
from tests.export.conftest import refused

pytestmark = [pytest.mark.engine, pytest.mark.slow]


def test_a_checkpoint_is_exported_and_evaluated_on_every_task_by_one_command(
    saved: Path,
    jglue: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    output = tmp_path / "evaluations"
    trial = ("--lr", "1e-3", "--epochs", "1", "--max-steps", "2", "--max-examples", "24", "--batch-size", "8")
    arguments = ("evaluate", saved, "--step", "3", "--data", jglue, "--output", output, *trial, "--json")
    done = retrieva(*arguments)
    (name,) = scores = json.loads(done.stdout)
    assert name.endswith("step_0000003")
    assert set(scores[name]) == {"marc-ja", "jsts", "jnli", "jsquad", "jcqa"}
    written = json.loads((output / name / "scores.json").read_text())
    # 2 steps of 8 samples of 16 positions and 1 of 8 of 64.
    assert written["consumed_tokens"] == 2 * 8 * 16 + 1 * 8 * 64
    again = retrieva(*arguments)
    assert json.loads(again.stdout) == scores and again.stderr.count("done before") == 5

    # The table goes onto the card of another export.
    out = tmp_path / "with scores"
    retrieva("export", saved, out, "--scores", output / name / "scores.md", "--language", "ja,en")
    card = (out / "README.md").read_text(encoding="utf-8")
    assert f"| {name} |" in card and "language:\n- ja\n- en\n" in card


def test_a_run_whose_tokenizer_has_moved_is_evaluated_with_the_one_that_is_named(
    saved: Path,
    small_tokenizer: Tokenizer,
    jglue: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(saved, moved)
    recipe = (moved / "recipe.yaml").read_text(encoding="utf-8")
    (moved / "recipe.yaml").write_text(
        recipe.replace(str(small_tokenizer.path), "gone.model"), encoding="utf-8"
    )
    trial = ("--lr", "1e-3", "--epochs", "1", "--max-steps", "1", "--max-examples", "8", "--task", "jcqa")
    arguments = ("evaluate", moved, "--data", jglue, "--output", tmp_path / "evaluations", *trial)
    message = refused(*arguments)
    assert "gone.model" in message and "--tokenizer FILE" in message
    retrieva(*arguments, "--tokenizer", small_tokenizer.path)
