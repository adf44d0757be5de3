"""Documents that hold long stretches of evaluation texts are found, and others are not."""

from __future__ import annotations

import gzip
import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import contamination
from data_prep.contamination import Contamination, ContaminationIndex, normalise
from data_prep.errors import DataPrepError


def index(path: Path, rows: list[Any], **fields: Any) -> ContaminationIndex:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return ContaminationIndex.load(Contamination(tasks={"task": [str(path)]}, **fields))


SENTENCE = "川べりでサーフボードを持った人たちがいます。"


@pytest.mark.parametrize(
    "text",
    [
        SENTENCE,
        f"前の文。{SENTENCE}後の文。",
        "川べりで サーフボードを\n持った、人たちが「います」",
        "川べりでｻｰﾌﾎﾞｰﾄﾞを持った人たちがいます",
    ],
)
def test_a_text_is_found_however_it_is_spaced_and_spelt(tmp_path: Path, text: str) -> None:
    assert index(tmp_path / "a.json", [{"sentence1": SENTENCE}]).find(text) == ("task",)


@pytest.mark.parametrize(
    "text", ["", "川べりで", "川べりでサーフィンをする人たちがいます。", SENTENCE[:15] + "。別の人", "a" * 99]
)
def test_a_text_that_shares_less_is_clean(tmp_path: Path, text: str) -> None:
    assert index(tmp_path / "a.json", [{"sentence1": SENTENCE}]).find(text) == ()


def test_the_real_tasks_are_found_where_they_were_planted(shared: Path) -> None:
    folder = shared / "jglue"
    found = {
        "jsts": [str(folder / "jsts-v1.3" / "*.json*")],
        "jcqa": [str(folder / "jcommonsenseqa-v1.3" / "*.json*")],
    }
    real = ContaminationIndex.load(Contamination(tasks=found))
    assert real.summary["jsts"].ngrams > 10_000
    for task, key in (("jsts", "sentence1"), ("jcqa", "question")):
        rows = [
            json.loads(line)
            for line in Path(found[task][0]).with_name("valid-v1.3.json").read_text().splitlines()[:200]
        ]
        texts = [row[key] for row in rows if len(normalise(row[key])) >= 20]
        assert texts
        assert all(task in real.find(f"これは文書です。{text}そして続きます。") for text in texts)
    lines = gzip.decompress(
        (shared / "corpora" / "llm-jp-cc" / "CC-MAIN-2017-04.jsonl.gz").read_bytes()
    ).splitlines()
    assert sum(bool(real.find(json.loads(line)["text"])) for line in lines[:300]) == 0


def test_fields_texts_too_short_and_nested_json(tmp_path: Path) -> None:
    squad = {
        "data": [{"paragraphs": [{"context": "文脈" * 20, "qas": [{"question": SENTENCE, "id": "a1"}]}]}]
    }
    (tmp_path / "squad.json").write_text(json.dumps(squad, indent=1))
    config = Contamination(tasks={"jsquad": [str(tmp_path / "squad.json")]}, fields=["question"])
    one = ContaminationIndex.load(config)
    assert one.find(SENTENCE) == ("jsquad",)
    assert one.find("文脈" * 20) == ()
    both = ContaminationIndex.load(config.model_copy(update={"fields": None}))
    assert both.find("文脈" * 20) == ("jsquad",)
    assert (both.summary["jsquad"].texts, both.summary["jsquad"].unused) == (3, 1)
    assert one.fingerprint != both.fingerprint


def test_windows_overlap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = index(tmp_path / "a.json", [SENTENCE])
    monkeypatch.setattr(contamination, "_WINDOW", 10)
    assert all(found.find("x" * number + SENTENCE) == ("task",) for number in range(12))


@settings(max_examples=200, deadline=None)
@given(text=st.text("abあ。 Ａ", max_size=60), evaluation=st.text("abあＡ", min_size=8, max_size=12))
def test_it_agrees_with_a_plain_search(text: str, evaluation: str) -> None:
    def plain(value: str) -> str:
        value = unicodedata.normalize("NFKC", value).casefold()
        return "".join(one for one in value if unicodedata.category(one)[0] in "LMN")

    ngrams = {plain(evaluation)[start : start + 8] for start in range(len(plain(evaluation)) - 7)}
    found = ContaminationIndex({"task": ngrams}, 8, {})
    assert bool(found.find(text)) == any(ngram in plain(text) for ngram in ngrams)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "matches no file"),
        ('{"a": "b"}\n{"a\n', "line 2: not valid JSON"),
        ('{"a": "短い"}\n', "none of its 1 texts"),
    ],
)
def test_evaluation_files_that_cannot_be_used_are_named(
    tmp_path: Path, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "a.json").write_text(content)
    with pytest.raises(DataPrepError, match=message):
        ContaminationIndex.load(Contamination(tasks={"task": [str(tmp_path / "a.json")]}))
