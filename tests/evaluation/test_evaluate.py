"""`retrieva evaluate` on a tiny encoder: all five kinds of task, resumed, refused, beside others."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from retrieva_pretrain.evaluation.tasks import TASKS
from tests.command import retrieva

pytest.importorskip("transformers", reason="the eval extra is not installed")

REPOSITORY = Path(__file__).resolve().parents[2]
REAL = REPOSITORY.parent / "shared" / "jglue"


def evaluate(*arguments: object, expected: int = 0) -> subprocess.CompletedProcess[str]:
    done = retrieva(
        "evaluate",
        *arguments,
        code=expected,
        cwd=REPOSITORY,
        environment={"OMP_NUM_THREADS": "1", "COLUMNS": "160"},
    )
    assert "Traceback" not in done.stderr
    return done


QUICK = ("--lr", "1e-3", "--epochs", "6")


@pytest.mark.slow
def test_all_five_kinds_of_task_are_learnt_and_finished_points_are_not_run_again(
    encoder: Path, jglue: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    arguments = (encoder, "--data", jglue, "--output", output, *QUICK, "--json")
    scores = json.loads(evaluate(*arguments).stdout)["tiny"]
    # Far above what guessing gives: 1/2, 1/3, 1/5, no correlation, and a span in a dozen characters.
    chance = {"marc-ja": 0.5, "jnli": 0.33, "jcqa": 0.2, "jsts": 0.0, "jsquad": 0.25}
    for name, guessed in chance.items():
        assert scores[name][TASKS[name].metrics[0]] > guessed + 0.3, scores
    assert scores["jsquad"]["em"] <= scores["jsquad"]["f1"]
    points = {path: path.stat().st_mtime_ns for path in output.rglob("points/**/*.json")}
    assert len(points) == 5
    one = next(path for path in points if path.parent.name == "jnli")
    one.unlink()
    again = evaluate(*arguments)
    assert json.loads(again.stdout)["tiny"] == scores
    assert again.stderr.count("done before") == 4
    now = {path: path.stat().st_mtime_ns for path in output.rglob("points/**/*.json")}
    assert now.keys() == points.keys()
    assert [path for path in points if now[path] != points[path]] == [one]


TRIAL = ("--lr", "1e-3,1e-4", "--epochs", "1", "--max-steps", "2", "--max-examples", "40")


@pytest.mark.slow
def test_several_encoders_stand_in_one_table_and_results_of_another_model_are_refused(
    encoder: Path, jglue: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(encoder, other)
    for folder, tokens in ((other, 2_000_000),):
        (folder / "export.json").write_text(json.dumps({"consumed_tokens": tokens}))
    output = tmp_path / "out"
    done = evaluate(encoder, other, "--task", "jnli", "--data", jglue, "--output", output, *TRIAL)
    for text in ("tiny", "other", "retrieva-jp/bert-1.3b (published)", "A trial", "0.916*"):
        assert text in done.stdout, done.stdout
    scores = json.loads((output / "tiny" / "scores.json").read_text())
    assert scores["is_a_trial"] and len(scores["tasks"]["jnli"]["points"]) == 2
    assert "| tiny |" in (output / "tiny" / "scores.md").read_text()
    assert json.loads((output / "other" / "scores.json").read_text())["consumed_tokens"] == 2_000_000
    (other / "vocabulary.json").write_text("{}")
    refused = evaluate(
        other, "--task", "jnli", "--data", jglue, "--output", output, *TRIAL, expected=1
    ).stderr
    assert "computed with another model" in refused and "--output" in refused
    for setting in (["--batch-size", "8"], ["--bf16"]):
        refused = evaluate(
            *(encoder, "--task", "jnli", "--data", jglue, "--output", output, *TRIAL, *setting), expected=1
        ).stderr
        assert "computed with another settings" in refused


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="the real JGLUE files are not beside the repository")
def test_the_real_files_are_trained_on(encoder: Path, tmp_path: Path) -> None:
    arguments = ("--task", "jsts,jcqa", "--data", REAL, "--output", tmp_path / "out")
    done = evaluate(encoder, *arguments, "--lr", "1e-4", "--epochs", "1", "--max-steps", "4", "--json")
    scores = json.loads(done.stdout)["tiny"]
    assert -1 <= scores["jsts"]["pearson"] <= 1
    assert 0.05 < scores["jcqa"]["accuracy"] < 0.6


def test_a_mistyped_run_is_not_asked_of_the_hub(jglue: Path, tmp_path: Path) -> None:
    (tmp_path / "runs" / "small").mkdir(parents=True)
    done = retrieva("evaluate", "runs/smal", "--data", jglue, code=1, cwd=tmp_path)
    assert "runs/smal: no such folder; in runs there are: small" in done.stderr


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("nothing", "--task: there is no task rte"),
        ("folder", "no such folder"),
        ("config", "holds no config.json"),
        ("weights", "holds no weights"),
        ("code", "add --trust-remote-code"),
        ("lr", "--lr: 'fast' is not a list of numbers"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_before_anything_is_written(
    encoder: Path, jglue: Path, tmp_path: Path, change: str, expected: str
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(encoder, folder)
    task, more = "jnli", []
    if change == "nothing":
        task = "rte"
    elif change == "folder":
        shutil.rmtree(folder)
    elif change == "config":
        (folder / "config.json").unlink()
    elif change == "weights":
        (folder / "model.safetensors").unlink()
    elif change == "code":
        config = json.loads((folder / "config.json").read_text())
        config["auto_map"] = {"AutoModel": "modeling_theirs.Model"}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "modeling_theirs.py").write_text("raise SystemExit('ran')\n")
    else:
        more = ["--lr", "fast"]
    output = tmp_path / "out"
    refused = evaluate(folder, "--task", task, "--data", jglue, "--output", output, *more, expected=1)
    assert expected in refused.stderr
    assert not output.exists()


def test_an_answer_is_found_over_the_windows_of_a_long_context() -> None:
    from retrieva_pretrain.evaluation.features import best_span, token_span

    # [CLS] q [SEP] and four tokens of the context, one of them without a character of its own.
    starts, ends = [-1, -1, -1, 0, 2, 2, 4], [-1, -1, -1, 2, 2, 4, 6]
    assert token_span(starts, ends, 2, 5) == (5, 6)
    assert token_span(starts, ends, 0, 2) == (3, 3)
    assert token_span(starts, ends, 5, 9) == (0, 0)  # not all of it is in this window
    start, end = np.zeros(9), np.zeros(9)
    start[6], end[3], end[6] = 5, 9, 1  # the best end lies before the best start
    found = best_span(np.array(starts), np.array(ends), start, end)
    assert found == (9.0, 0, 2)
