"""A build is Megatron's bytes or one message; never half a corpus, and never the same work twice."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from pydantic import ValidationError

from data_prep.build import Cut, Progress, build
from data_prep.corpus import CorpusConfig, TokenizerConfig
from data_prep.errors import DataPrepError
from data_prep.indexed import IndexedDataset
from data_prep.manifest import Manifest
from data_prep.tokenizer import Tokenizer
from data_prep.verify import verify

TEXTS = ["あいう かきく", "abc defg abc", "えお けこ abc", "うえ、 い"]

# What Megatron-LM's tools/preprocess_data.py (commit d98e8a6, --append-eod) wrote with sentencepiece 0.2.3.
MEGATRON_BIN = "162880572c0d3117df128d6903c1f97449818af0b57396624d96e23621003cd3"
MEGATRON_IDX = "656fe72eaa523f2052e9895e264499e8b220805fda71f9648180bba0b9440d65"


def names(folder: Path) -> list[str]:
    """Files a user sees; `.NAME.build` is the work of a build that is not complete."""
    paths = folder.iterdir() if folder.exists() else ()
    return sorted(path.name for path in paths if not path.name.startswith("."))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def texts_of(prefix: Path, tokenizer: Tokenizer) -> list[str]:
    dataset = IndexedDataset(prefix)
    return [tokenizer.decode(dataset.document(number)) for number in range(dataset.num_documents)]


@pytest.mark.skipif(
    sentencepiece.__version__ != "0.2.3",
    reason="the reference was made with sentencepiece 0.2.3; versions differ in exact score ties",
)
def test_a_real_corpus_is_byte_for_byte_what_megatrons_own_tool_writes(
    tmp_path: Path, shared: Path, llm_jp_model: Path
) -> None:
    config = CorpusConfig(
        name="ja_cc",
        source="llm_jp_cc",
        files=[str(shared / "corpora" / "llm-jp-cc" / "CC-MAIN-2017-04.jsonl.gz")],
        tokenizer=TokenizerConfig(model=str(llm_jp_model)),
    )
    manifest = build(config, tmp_path)
    written = [
        hashlib.sha256((tmp_path / f"ja_cc.{kind}").read_bytes()).hexdigest() for kind in ("bin", "idx")
    ]
    assert written == [MEGATRON_BIN, MEGATRON_IDX]
    assert [manifest.outputs.bin.sha256, manifest.outputs.idx.sha256] == written
    assert manifest.dtype == "int32"
    assert manifest.eod is not None
    assert manifest.eod.id == 2


def test_every_document_is_its_text_and_the_end_token(
    tmp_path: Path, configure: Any, write_jsonl: Any, small_tokenizer: Tokenizer
) -> None:
    config = configure(write_jsonl(tmp_path / "a.jsonl", TEXTS))
    build(config, tmp_path / "out")
    dataset = IndexedDataset(tmp_path / "out" / "corpus")
    end = small_tokenizer.piece_id("</s>")
    assert [dataset.document(number).tolist()[-1] for number in range(4)] == [end] * 4
    assert [(dataset.document(number) == end).sum() for number in range(4)] == [1] * 4
    assert texts_of(tmp_path / "out" / "corpus", small_tokenizer) == TEXTS


@pytest.mark.parametrize(("fields", "end"), [({"append_eod": False}, None), ({"eod": "<EOD>"}, "<EOD>")])
def test_the_end_token_is_what_was_asked_for(
    tmp_path: Path, configure: Any, write_jsonl: Any, small_tokenizer: Tokenizer, fields: Any, end: str | None
) -> None:
    manifest = build(configure(write_jsonl(tmp_path / "a.jsonl", ["abc"]), **fields), tmp_path / "out")
    ids = small_tokenizer.encode(["abc"])[0]
    expected = [*ids, small_tokenizer.piece_id(end)] if end else ids.tolist()
    assert IndexedDataset(tmp_path / "out" / "corpus").document(0).tolist() == expected
    assert (manifest.eod.piece if manifest.eod else None) == end


def test_the_manifest_says_what_went_in_and_what_came_out(
    tmp_path: Path, configure: Any, write_jsonl: Any, small_tokenizer: Tokenizer
) -> None:
    rows = [{"body": text} for text in [*TEXTS, "", "half \ud83d"]]
    first = tmp_path / "a.jsonl"
    first.write_text("".join(json.dumps(row) + "\n" for row in rows) + "\n \n", encoding="utf-8")
    second = write_jsonl(tmp_path / "b.jsonl.gz", [{"body": "abc"}])
    config = configure(second, first, options={"text_key": "body"})
    manifest = build(config, tmp_path / "out")
    assert manifest == Manifest.load(tmp_path / "out" / "corpus")
    assert [(file.path, file.bytes, file.sha256) for file in manifest.files] == [
        (str(path), path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in (first, second)
    ]
    assert manifest.tokenizer.sha256 == hashlib.sha256(small_tokenizer.path.read_bytes()).hexdigest()
    assert manifest.tokenizer.sentencepiece_version == sentencepiece.__version__
    assert manifest.tokenizer.vocab_size == 400
    assert manifest.counts.documents == 6
    assert manifest.counts.tokens == IndexedDataset(tmp_path / "out" / "corpus").num_tokens
    assert manifest.counts.text_bytes == sum(len(text.encode()) for text in [*TEXTS, "half \ufffd", "abc"])
    assert manifest.counts.dropped == {"blank_line": 2, "empty": 1}
    assert manifest.counts.repaired == {"lone_surrogate": 1}
    assert manifest.parameters == config.model_dump(mode="json")
    assert manifest.parameters["options"] == {"text_key": "body"}
    assert verify(tmp_path / "out" / "corpus").ok


def test_building_again_does_nothing(tmp_path: Path, configure: Any, write_jsonl: Any) -> None:
    config = configure(write_jsonl(tmp_path / "a.jsonl", TEXTS))
    first = build(config, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    seen: list[Progress] = []
    assert build(config, tmp_path / "out", progress=seen.append) == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before
    assert [progress.stage for progress in seen] == ["checking", "unchanged"]


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("cut", [Cut(), Cut(task_bytes=30_000, shard_bytes=100_000)])
def test_the_same_inputs_give_the_same_bytes_however_the_work_is_shared(
    tmp_path: Path, configure: Any, write_jsonl: Any, workers: int, cut: Cut
) -> None:
    one = write_jsonl(tmp_path / "a.jsonl", TEXTS * 1500)
    config = configure(one, write_jsonl(tmp_path / "b.jsonl.gz", TEXTS * 700), deduplicate=True)
    build(config, tmp_path / "one", workers=1)
    build(config, tmp_path / "two", workers=workers, cut=cut)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert names(tmp_path / "two") == ["corpus.bin", "corpus.idx", "corpus.manifest.json"]
    assert list((tmp_path / "two").glob(".*")) == []


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


def test_bad_input_leaves_the_corpus_that_was_there(tmp_path: Path, configure: Any, write_jsonl: Any) -> None:
    config = configure(write_jsonl(tmp_path / "a.jsonl", TEXTS))
    build(config, tmp_path / "out")
    before = contents(tmp_path / "out")
    (tmp_path / "a.jsonl").write_bytes(b"{")
    with pytest.raises(DataPrepError, match="line 1: not valid JSON"):
        build(config, tmp_path / "out", overwrite=True)
    assert contents(tmp_path / "out") == before


def test_declared_steps_are_taken_and_counted(
    tmp_path: Path, configure: Any, write_jsonl: Any, small_tokenizer: Tokenizer
) -> None:
    texts = ["abc", "ａｂｃ", "ab\x07c", "a", "abc", "あ" * 50]
    file = write_jsonl(tmp_path / "a.jsonl", texts)
    steps = {"nfkc": True, "control_characters": "remove", "min_characters": 2, "max_characters": 20}
    manifest = build(configure(file, text=steps, deduplicate=True), tmp_path / "out")
    # After the steps, three of them are the first.
    assert texts_of(tmp_path / "out" / "corpus", small_tokenizer) == ["abc"]
    assert manifest.counts.dropped == {"duplicate": 3, "too_long": 1, "too_short": 1}
    assert manifest.counts.repaired == {"control_characters": 1, "nfkc": 1}


def test_duplicates_are_found_across_files_and_the_first_stays(
    tmp_path: Path, configure: Any, write_jsonl: Any, small_tokenizer: Tokenizer
) -> None:
    write_jsonl(tmp_path / "a.jsonl", ["abc", "あいう", "abc"])
    write_jsonl(tmp_path / "b.jsonl", ["えお", "あいう", "かき"])
    config = configure(tmp_path / "*.jsonl", deduplicate=True)
    manifest = build(config, tmp_path / "out", workers=2)
    assert texts_of(tmp_path / "out" / "corpus", small_tokenizer) == ["abc", "あいう", "えお", "かき"]
    assert manifest.counts.dropped == {"duplicate": 2}
    assert [file.documents for file in manifest.files] == [2, 2]
    assert verify(tmp_path / "out" / "corpus").ok
    build(configure(tmp_path / "*.jsonl"), tmp_path / "kept")
    assert IndexedDataset(tmp_path / "kept" / "corpus").num_documents == 6


def test_documents_that_hold_evaluation_texts_are_dropped_and_counted_by_task(
    tmp_path: Path, configure: Any, write_jsonl: Any, small_tokenizer: Tokenizer
) -> None:
    sentence = "あいうえお かきくけこ abcdefg"
    write_jsonl(tmp_path / "test" / "v1.json", [{"sentence1": sentence, "label": 1}])
    file = write_jsonl(tmp_path / "a.jsonl", ["abc " + sentence + " abc", "あいう かきく", "abc"])
    config = configure(
        file, decontaminate={"tasks": {"jsts": [str(tmp_path / "test" / "*.json")]}, "ngram_characters": 12}
    )
    manifest = build(config, tmp_path / "out")
    assert texts_of(tmp_path / "out" / "corpus", small_tokenizer) == ["あいう かきく", "abc"]
    assert manifest.counts.dropped == {"contaminated": 1}
    assert manifest.counts.contaminated == {"jsts": 1}
    write_jsonl(tmp_path / "test" / "v1.json", [{"sentence1": sentence * 2}])
    with pytest.raises(DataPrepError, match="decontaminate: other evaluation texts"):
        build(config, tmp_path / "out")


def test_licences_are_counted_for_the_documents_that_stay(
    tmp_path: Path, configure: Any, write_jsonl: Any
) -> None:
    rows = [
        {"content": "abc", "max_stars_repo_licenses": ["MIT", "Zlib"]},
        {"content": "あいう", "max_stars_repo_licenses": ["MIT"]},
        {"content": "abc", "max_stars_repo_licenses": ["GPL-3.0"]},
        {"content": "かき"},
    ]
    config = configure(write_jsonl(tmp_path / "a.jsonl", rows), source="the_stack", deduplicate=True)
    counts = build(config, tmp_path / "out").counts
    assert counts.labels == {"licence": {"GPL-3.0": 0, "MIT": 2, "Zlib": 1}}


def test_the_manifest_tells_what_came_from_each_file(
    tmp_path: Path, configure: Any, write_jsonl: Any
) -> None:
    write_jsonl(tmp_path / "a.jsonl", TEXTS)
    write_jsonl(tmp_path / "b.jsonl.gz", TEXTS[:2])
    manifest = build(configure(tmp_path / "*"), tmp_path / "out")
    assert [file.documents for file in manifest.files] == [4, 2]
    assert sum(file.tokens for file in manifest.files) == manifest.counts.tokens
    assert sum(file.text_bytes for file in manifest.files) == manifest.counts.text_bytes


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


def test_a_file_that_several_patterns_match_is_read_once(
    tmp_path: Path, configure: Any, write_jsonl: Any, small_tokenizer: Tokenizer
) -> None:
    for number, text in enumerate(TEXTS[:3]):
        write_jsonl(tmp_path / f"{number}.jsonl", [text])
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "1.jsonl")
    patterns = [tmp_path / "2.jsonl", tmp_path / "*.jsonl", tmp_path / "[01].jsonl", tmp_path / "**/2*"]
    manifest = build(configure(*patterns), tmp_path / "out")
    assert [Path(file.path).name for file in manifest.files] == ["0.jsonl", "1.jsonl", "2.jsonl"]
    assert texts_of(tmp_path / "out" / "corpus", small_tokenizer) == TEXTS[:3]


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


def test_a_corpus_without_any_document_is_whole(tmp_path: Path, configure: Any) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"")
    (tmp_path / "b.jsonl").write_bytes(b'{"text": ""}\n')
    manifest = build(configure(tmp_path / "*.jsonl"), tmp_path / "out")
    assert manifest.counts.documents == 0
    assert manifest.counts.dropped == {"empty": 1}
    assert verify(tmp_path / "out" / "corpus").ok
