"""A corpus that is there is taken for what was asked only where it is that; nothing of another's is replaced."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_prep.build import Progress, build
from data_prep.corpus import TokenizerConfig
from data_prep.errors import DataPrepError
from data_prep.manifest import Manifest
from data_prep.tokenizer import Tokenizer
from data_prep.verify import verify
from tests.data_prep.built import TEXTS, contents, names


def test_building_again_does_nothing(tmp_path: Path, configure: Any, write_jsonl: Any) -> None:
    config = configure(write_jsonl(tmp_path / "a.jsonl", TEXTS))
    first = build(config, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    seen: list[Progress] = []
    assert build(config, tmp_path / "out", progress=seen.append) == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before
    assert [progress.stage for progress in seen] == ["checking", "unchanged"]


Change = Callable[[Path, dict[str, Any]], None]


def _other_content(file: Path, _: dict[str, Any]) -> None:
    file.write_bytes(file.read_bytes().replace(b"abc", b"cba"))


def _grown(file: Path, _: dict[str, Any]) -> None:
    file.write_bytes(file.read_bytes() * 2)


def _option(_: Path, fields: dict[str, Any]) -> None:
    fields["options"] = {"text_key": "title"}


def _end(_: Path, fields: dict[str, Any]) -> None:
    fields["eod"] = "<EOD>"


def _no_end(_: Path, fields: dict[str, Any]) -> None:
    fields["append_eod"] = False


def _another_source(_: Path, fields: dict[str, Any]) -> None:
    fields["source"] = "llm_jp_cc"


def _another_model(file: Path, fields: dict[str, Any]) -> None:
    # A byte string of an unknown protobuf field: the same pieces, another file.
    model = Path(fields["tokenizer"].model).read_bytes() + b"\xaa\x06\x01x"
    other = file.with_name("other.model")
    other.write_bytes(model)
    fields["tokenizer"] = TokenizerConfig(model=str(other))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_other_content, "a.jsonl: other content"),
        (_grown, "a.jsonl: .* bytes"),
        (_option, "options.text_key: 'text' -> 'title'"),
        (_end, "eod: '</s>' -> '<EOD>'"),
        (_no_end, "append_eod: True -> False"),
        (_another_source, "source: 'jsonl' -> 'llm_jp_cc'"),
        (_another_model, "tokenizer: .*other.model"),
    ],
)
def test_a_corpus_of_other_inputs_is_refused_and_kept_unless_overwritten(
    tmp_path: Path, configure: Any, write_jsonl: Any, change: Change, named: str, small_tokenizer: Tokenizer
) -> None:
    rows = [{"text": text, "title": "かき"} for text in TEXTS]
    file = write_jsonl(tmp_path / "a.jsonl", rows)
    fields: dict[str, Any] = {"tokenizer": TokenizerConfig(model=str(small_tokenizer.path))}
    build(configure(file, **fields), tmp_path / "out")
    before = contents(tmp_path / "out")
    change(file, fields)
    with pytest.raises(DataPrepError, match=named) as refusal:
        build(configure(file, **fields), tmp_path / "out")
    assert "--overwrite" in str(refusal.value)
    assert contents(tmp_path / "out") == before
    manifest = build(configure(file, **fields), tmp_path / "out", overwrite=True)
    assert manifest == Manifest.load(tmp_path / "out" / "corpus")
    assert verify(tmp_path / "out" / "corpus").ok
    assert names(tmp_path / "out") == ["corpus.bin", "corpus.idx", "corpus.manifest.json"]


def test_files_that_were_moved_are_the_same_inputs(tmp_path: Path, configure: Any, write_jsonl: Any) -> None:
    first = build(configure(write_jsonl(tmp_path / "here" / "a.jsonl", TEXTS)), tmp_path / "out")
    assert build(configure(write_jsonl(tmp_path / "there" / "b.jsonl", TEXTS)), tmp_path / "out") == first


@pytest.mark.parametrize("lost", ["bin", "idx"])
def test_a_damaged_corpus_is_not_taken_for_a_complete_one(
    tmp_path: Path, configure: Any, write_jsonl: Any, lost: str
) -> None:
    config = configure(write_jsonl(tmp_path / "a.jsonl", TEXTS))
    build(config, tmp_path / "out")
    whole = contents(tmp_path / "out")
    (tmp_path / "out" / f"corpus.{lost}").write_bytes(whole[f"corpus.{lost}"][:-2])
    with pytest.raises(DataPrepError, match=r"corpus\.idx.*--overwrite"):
        build(config, tmp_path / "out")
    build(config, tmp_path / "out", overwrite=True)
    assert contents(tmp_path / "out") == whole


def test_the_files_of_another_tool_are_not_replaced(tmp_path: Path, configure: Any, write_jsonl: Any) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "corpus.bin").write_bytes(b"Megatron's own")
    with pytest.raises(DataPrepError, match=r"corpus\.bin is there without a manifest.*--overwrite"):
        build(configure(write_jsonl(tmp_path / "a.jsonl", TEXTS)), tmp_path / "out")
    assert contents(tmp_path / "out") == {"corpus.bin": b"Megatron's own"}


def test_bad_input_leaves_the_corpus_that_was_there(tmp_path: Path, configure: Any, write_jsonl: Any) -> None:
    config = configure(write_jsonl(tmp_path / "a.jsonl", TEXTS))
    build(config, tmp_path / "out")
    before = contents(tmp_path / "out")
    (tmp_path / "a.jsonl").write_bytes(b"{")
    with pytest.raises(DataPrepError, match="line 1: not valid JSON"):
        build(config, tmp_path / "out", overwrite=True)
    assert contents(tmp_path / "out") == before
