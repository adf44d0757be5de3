"""What cannot be built ends in one message, and leaves nothing half-written."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from data_prep.build import build
from data_prep.corpus import TokenizerConfig
from data_prep.errors import DataPrepError
from tests.data_prep.built import TEXTS, names


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b'{"text": "abc"}\n{"text": "a\n', "line 2: not valid JSON"),
        ("a.jsonl", b'{"text": "abc"}\n{"text": "\xff"}\n', r"line 2: byte 11 \(0xff\) is not UTF-8"),
        ("a.jsonl", b'\n{"txt": "abc"}\n', "line 2: no 'text'; there is 'txt'. Did you mean 'txt'"),
        ("a.jsonl", b'{"text": "abc"}\n{"text": null}\n', "record 2: 'text' is null, not a text"),
        ("a.jsonl", b'{"text": ["abc"]}\n', "record 1: 'text' is a list, not a text"),
        ("a.jsonl", b'{"text": 12}\n', "record 1: 'text' is a number, not a text"),
        ("a.jsonl", b'"abc"\n', "line 1: a string where an object"),
        ("a.jsonl", b'{"text": "abc", "x": ' + b"[" * 100_000 + b"\n", "line 1: JSON that cannot be read"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "abc"}\n' * 99, mtime=0)[:-12], "the file was cut short"),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"text": "abc"}\n' * 99, mtime=0)[:-8] + bytes(8),
            "damaged compressed data",
        ),
    ],
)
def test_input_that_cannot_be_read_stops_the_build_unless_it_is_allowed_for(
    tmp_path: Path, configure: Any, write_jsonl: Any, name: str, data: bytes, message: str
) -> None:
    good = write_jsonl(tmp_path / "Good.jsonl", TEXTS * 200)
    (tmp_path / name).write_bytes(data)
    config = configure(good, tmp_path / name)
    with pytest.raises(
        DataPrepError, match=f"(?s)max_malformed allows 0.10%:.*{name}: .*{message}"
    ) as refusal:
        build(config, tmp_path / "out")
    assert refusal.value.__cause__ is None
    assert names(tmp_path / "out") == []
    # The finished shards are used again: the limit decides nothing that is in them.
    manifest = build(config.model_copy(update={"max_malformed": 0.01}), tmp_path / "out")
    assert sum(manifest.counts.malformed.values()) == 1
    (problem,) = manifest.malformed_records
    assert problem.file == str(tmp_path / name)
    counts = manifest.counts
    assert counts.records == counts.documents + 1 + sum(counts.dropped.values())


@pytest.mark.parametrize(
    ("data", "message"), [(b'{"text": "abc"}\n', "not gz data"), (b"", "empty, though its name says so")]
)
def test_a_file_that_is_not_what_its_name_says_is_refused_before_any_work(
    tmp_path: Path, configure: Any, write_jsonl: Any, data: bytes, message: str
) -> None:
    good = write_jsonl(tmp_path / "Good.jsonl", TEXTS)
    (tmp_path / "a.jsonl.gz").write_bytes(data)
    with pytest.raises(DataPrepError, match=f"a.jsonl.gz: {message}") as refusal:
        build(configure(good, tmp_path / "a.jsonl.gz"), tmp_path / "out")
    assert "\n" not in str(refusal.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_few_malformed_records_among_many_are_counted_and_named(
    tmp_path: Path, configure: Any, write_jsonl: Any
) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", TEXTS * 1500)
    with file.open("ab") as stream:
        stream.write(b'{"text": 1}\n{\n')
    manifest = build(configure(file), tmp_path / "out")
    assert manifest.counts.malformed == {"not_a_text": 1, "not_json": 1}
    assert [problem.record for problem in manifest.malformed_records] == [6001, 6002]
    assert manifest.counts.documents == 6000


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("absent/*.jsonl", r"absent/\*\.jsonl matches no file"),
        ("absent.jsonl", r"absent\.jsonl matches no file"),
        ("folder", "folder is a directory"),
        ("s3://bucket/a.jsonl", "not a local path"),
    ],
)
def test_a_pattern_that_matches_no_file_is_named(
    tmp_path: Path,
    configure: Any,
    write_jsonl: Any,
    monkeypatch: pytest.MonkeyPatch,
    pattern: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "folder" / "a.jsonl", TEXTS)
    with pytest.raises(DataPrepError, match=message):
        build(configure("folder/*.jsonl", pattern), tmp_path / "out")
    assert names(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"source": "refined_web"}, "no source 'refined_web'; did you mean 'refinedweb'"),
        (
            {"options": {"text_kye": "a"}},
            "text_kye: the source jsonl has no such option; did you mean 'text_key'",
        ),
        ({"options": {"text_key": 3}}, "text_key: Input should be a valid string"),
        ({"name": "../escape"}, "name"),
        ({"name": ".hidden"}, "name"),
    ],
)
def test_a_wrong_field_is_refused_with_the_nearest_name(
    configure: Any, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        configure("a.jsonl", **fields)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "the tokenizer cannot be read"), (b'{"model": "bpe"}', "not a SentencePiece model")],
)
def test_a_tokenizer_that_is_none_is_refused(
    tmp_path: Path, configure: Any, write_jsonl: Any, content: bytes | None, message: str
) -> None:
    model = tmp_path / "tokenizer.json"
    if content is not None:
        model.write_bytes(content)
    config = configure(write_jsonl(tmp_path / "a.jsonl", TEXTS), tokenizer=TokenizerConfig(model=str(model)))
    with pytest.raises(DataPrepError, match=f"tokenizer.json: {message}"):
        build(config, tmp_path / "out")
    assert names(tmp_path / "out") == []


def test_an_unknown_end_piece_is_refused_and_never_unk(
    tmp_path: Path, configure: Any, write_jsonl: Any
) -> None:
    config = configure(write_jsonl(tmp_path / "a.jsonl", TEXTS), eod="<EOS>")
    with pytest.raises(DataPrepError, match=r"small\.model: no piece '<EOS>'.*<EOD>"):
        build(config, tmp_path / "out")
    assert names(tmp_path / "out") == []


def test_an_output_directory_that_cannot_be_written_is_named(
    tmp_path: Path, configure: Any, write_jsonl: Any
) -> None:
    (tmp_path / "out").write_bytes(b"a file")
    with pytest.raises(DataPrepError, match=r"out/\.corpus\.build: "):
        build(configure(write_jsonl(tmp_path / "a.jsonl", TEXTS)), tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"a file"
