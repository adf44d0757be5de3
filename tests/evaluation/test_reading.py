"""JGLUE's own files are read; what is wrong in them is named with its line and field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from retrieva_pretrain.errors import EvaluationError
from retrieva_pretrain.evaluation.reading import find_files, read_examples
from retrieva_pretrain.evaluation.tasks import TASKS

REAL = Path(__file__).resolve().parents[3] / "shared" / "jglue"


def test_the_newest_version_is_found_plain_or_gzipped(jglue: Path) -> None:
    files = find_files(jglue, TASKS["jnli"])
    assert files.train.parent.name == "jnli-v1.3"
    assert find_files(jglue, TASKS["jsts"]).valid.name == "valid-v1.3.json.gz"
    for task in TASKS.values():
        found = find_files(jglue, task)
        assert len(read_examples(found.train, task)) == 400
        assert len(read_examples(found.valid, task, limit=7)) == 7


def test_the_fingerprint_is_of_the_contents(jglue: Path, tmp_path: Path) -> None:
    files = find_files(jglue, TASKS["jcqa"])
    copied = tmp_path / "jcommonsenseqa"
    copied.mkdir()
    for path in (files.train, files.valid):
        (copied / path.name).write_bytes(path.read_bytes())
    assert find_files(tmp_path, TASKS["jcqa"]).sha256() == files.sha256()
    with (copied / files.valid.name).open("ab") as file:
        file.write(b"\n")
    assert find_files(tmp_path, TASKS["jcqa"]).sha256() != files.sha256()


@pytest.mark.skipif(not REAL.is_dir(), reason="the real JGLUE files are not beside the repository")
@pytest.mark.parametrize(("name", "train", "valid"), [("jsts", 12_451, 1_457), ("jcqa", 8_939, 1_119)])
def test_the_real_files_have_the_published_numbers_of_examples(name: str, train: int, valid: int) -> None:
    files = find_files(REAL, TASKS[name])
    assert len(read_examples(files.train, TASKS[name])) == train
    assert len(read_examples(files.valid, TASKS[name])) == valid


GOOD: dict[str, Any] = {"sentence1": "あ", "sentence2": "い", "label": "neutral"}


@pytest.mark.parametrize(
    ("task", "line", "expected"),
    [
        ("jnli", '{"sentence1": "あ"', "line 2: is not JSON"),
        ("jnli", json.dumps({**GOOD, "label": "maybe"}), "line 2: the field `label` is 'maybe', not one of"),
        (
            "jnli",
            json.dumps({"sentence1": "あ", "label": "neutral"}),
            "line 2: the field `sentence2` is missing",
        ),
        (
            "jsts",
            json.dumps({**GOOD, "label": 7}),
            "line 2: the field `label` is 7, not a number from 0 to 5",
        ),
        ("jsts", json.dumps({**GOOD, "label": True}), "not a number from 0 to 5"),
        ("jcqa", json.dumps({"question": "？"}), "the field `choice0` is missing"),
        ("marc-ja", "[]", "line 2: is not a JSON object"),
    ],
)
def test_a_wrong_line_is_named_with_its_field(tmp_path: Path, task: str, line: str, expected: str) -> None:
    good = {
        "jnli": GOOD,
        "jsts": {**GOOD, "label": 1.5},
        "jcqa": {"question": "？", **{f"choice{n}": "x" for n in range(5)}, "label": 4},
        "marc-ja": {"sentence": "あ", "label": "positive"},
    }[task]
    path = tmp_path / "train-v1.3.json"
    path.write_text(json.dumps(good, ensure_ascii=False) + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(EvaluationError) as caught:
        read_examples(path, TASKS[task])
    assert str(path) in str(caught.value) and expected in str(caught.value)


def test_an_answer_that_does_not_stand_where_it_says_is_named(tmp_path: Path) -> None:
    asked = {"id": "q", "question": "？", "answers": [{"text": "京", "answer_start": 0}]}
    path = tmp_path / "valid-v1.3.json"
    path.write_text(json.dumps({"data": [{"paragraphs": [{"context": "東京", "qas": [asked]}]}]}))
    with pytest.raises(
        EvaluationError, match=r"data\[0\]\.paragraphs\[0\]\.qas\[0\]: `answer_start` 0 is not"
    ):
        read_examples(path, TASKS["jsquad"])


def test_missing_folders_and_files_are_named_with_what_is_there(jglue: Path, tmp_path: Path) -> None:
    (tmp_path / "jsts-v1.3").mkdir()
    with pytest.raises(EvaluationError, match=r"holds no folder jnli-v1\.x of JNLI; there are: jsts-v1\.3"):
        find_files(tmp_path, TASKS["jnli"])
    with pytest.raises(EvaluationError, match=r"holds no train-v1\.x\.json"):
        find_files(tmp_path, TASKS["jsts"])
    with pytest.raises(EvaluationError, match="no such folder"):
        find_files(tmp_path / "nowhere", TASKS["jsts"])
