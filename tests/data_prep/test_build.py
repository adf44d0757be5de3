"""A build is Megatron's bytes or one message; never half a corpus, and never the same work twice."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from data_prep.build import Cut, build
from data_prep.corpus import CorpusConfig, TokenizerConfig
from data_prep.errors import DataPrepError
from data_prep.indexed import IndexedDataset
from data_prep.manifest import Manifest
from data_prep.tokenizer import Tokenizer
from data_prep.verify import verify
from tests.data_prep.built import TEXTS, contents, names, texts_of

# What Megatron-LM's tools/preprocess_data.py (commit d98e8a6, --append-eod) wrote with sentencepiece 0.2.3.
MEGATRON_BIN = "162880572c0d3117df128d6903c1f97449818af0b57396624d96e23621003cd3"
MEGATRON_IDX = "656fe72eaa523f2052e9895e264499e8b220805fda71f9648180bba0b9440d65"


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


def test_a_corpus_without_any_document_is_whole(tmp_path: Path, configure: Any) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"")
    (tmp_path / "b.jsonl").write_bytes(b'{"text": ""}\n')
    manifest = build(configure(tmp_path / "*.jsonl"), tmp_path / "out")
    assert manifest.counts.documents == 0
    assert manifest.counts.dropped == {"empty": 1}
    assert verify(tmp_path / "out" / "corpus").ok
