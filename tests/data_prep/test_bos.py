"""A piece before every document: asked for by name, recorded, checked; and no change where it is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from data_prep.build import build
from data_prep.errors import DataPrepError
from data_prep.indexed import IndexedDataset
from data_prep.inspect import inspect
from data_prep.manifest import Manifest
from data_prep.tokenizer import Tokenizer
from data_prep.verify import verify
from tests.data_prep.built import TEXTS

REPOSITORY = Path(__file__).resolve().parents[2]
BRACKETS = {"bos": "<CLS>", "eod": "<SEP>"}


@pytest.mark.parametrize("append_eod", [True, False])
def test_every_document_begins_with_the_piece(
    tmp_path: Path, configure: Any, write_jsonl: Any, small_tokenizer: Tokenizer, append_eod: bool
) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", [*TEXTS, ""])
    manifest = build(configure(file, bos="<CLS>", eod="<SEP>", append_eod=append_eod), tmp_path / "out")
    prefix = tmp_path / "out" / "corpus"
    start, end = small_tokenizer.piece_id("<CLS>"), small_tokenizer.piece_id("<SEP>")
    expected = [
        [start, *ids.tolist(), *([end] if append_eod else [])] for ids in small_tokenizer.encode(TEXTS)
    ]
    dataset = IndexedDataset(prefix)
    assert [dataset.document(n).tolist() for n in range(dataset.num_documents)] == expected
    assert manifest == Manifest.load(prefix)
    assert manifest.bos is not None
    assert (manifest.bos.piece, manifest.bos.id) == ("<CLS>", start)
    assert manifest.counts.tokens == sum(map(len, expected))
    assert manifest.text_tokens == sum(map(len, small_tokenizer.encode(TEXTS)))
    assert manifest.brackets_documents is append_eod
    assert verify(prefix).ok
    assert inspect(prefix, [0]).documents[0].text == TEXTS[0]
    assert inspect(prefix).bytes_per_token == manifest.counts.text_bytes / manifest.text_tokens


def test_a_corpus_without_it_is_byte_for_byte_what_it_was(
    tmp_path: Path, configure: Any, write_jsonl: Any, small_tokenizer: Tokenizer
) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", TEXTS)
    manifest = build(configure(file), tmp_path / "out")
    plain = build(configure(file, name="other", bos=None), tmp_path / "out")
    assert manifest.outputs == plain.outputs
    assert manifest.fingerprint == plain.fingerprint
    end = small_tokenizer.piece_id("</s>")
    assert IndexedDataset(tmp_path / "out" / "corpus").document(1).tolist() == [
        *small_tokenizer.encode([TEXTS[1]])[0].tolist(),
        end,
    ]


def test_a_manifest_from_before_there_was_such_a_piece_is_read_and_is_the_same_corpus(
    tmp_path: Path, configure: Any, write_jsonl: Any
) -> None:
    config = configure(write_jsonl(tmp_path / "a.jsonl", TEXTS))
    new = build(config, tmp_path / "out")
    path = Manifest.path(tmp_path / "out" / "corpus")
    content = json.loads(path.read_text())
    del content["bos"], content["parameters"]["bos"]
    path.write_text(json.dumps(content))
    old = Manifest.load(tmp_path / "out" / "corpus")
    assert old.bos is None
    assert old.fingerprint == new.fingerprint
    assert build(config, tmp_path / "out") == old, "the corpus that is there is the one asked for"


def test_another_piece_is_another_corpus(tmp_path: Path, configure: Any, write_jsonl: Any) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", TEXTS)
    manifest = build(configure(file, **BRACKETS), tmp_path / "out")
    for fields, line in (
        ({"eod": "<SEP>"}, "bos: '<CLS>' -> None"),
        ({"eod": "<SEP>", "bos": "<s>"}, "bos: '<CLS>' -> '<s>'"),
    ):
        with pytest.raises(DataPrepError, match=line):
            build(configure(file, **fields), tmp_path / "out")
    # What the piece is for is not in the files: the manifest alone tells <CLS> from a text's first token.
    unmarked = manifest.model_copy(update={"bos": None})
    assert unmarked.fingerprint != manifest.fingerprint


def test_a_piece_that_the_tokenizer_does_not_have_is_refused_before_anything_is_written(
    tmp_path: Path, configure: Any, write_jsonl: Any
) -> None:
    config = configure(write_jsonl(tmp_path / "a.jsonl", TEXTS), bos="<CLZ>")
    with pytest.raises(DataPrepError, match=r"no piece '<CLZ>'.*<CLS>"):
        build(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_document_that_does_not_begin_with_it_is_found(
    tmp_path: Path, configure: Any, write_jsonl: Any, small_tokenizer: Tokenizer
) -> None:
    build(configure(write_jsonl(tmp_path / "a.jsonl", TEXTS), **BRACKETS), tmp_path / "out")
    path = Manifest.path(tmp_path / "out" / "corpus")
    content = json.loads(path.read_text())
    content["bos"] = {"piece": "<s>", "id": 1}
    path.write_text(json.dumps(content))
    start = small_tokenizer.piece_id("<CLS>")
    assert (
        f"document 0: begins with token {start}, not with 1 (<s>)"
        in verify(tmp_path / "out" / "corpus").problems
    )


def test_the_command_line_builds_shows_and_verifies_such_a_corpus(
    tmp_path: Path, write_jsonl: Any, small_tokenizer: Tokenizer
) -> None:
    write_jsonl(tmp_path / "a.jsonl", TEXTS)
    (tmp_path / "corpus.yaml").write_text(
        "name: corpus\nsource: jsonl\nfiles: [a.jsonl]\nbos: <CLS>\neod: <SEP>\n"
        f"tokenizer: {{model: {small_tokenizer.path}}}\n"
    )

    def retrieva(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "retrieva_pretrain", "data", *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "100"},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    retrieva("build", "corpus.yaml", "--output", "data")
    shown = retrieva("inspect", "data/corpus").splitlines()
    assert "<CLS> (5)" in next(line for line in shown if "start of document" in line)
    assert "<SEP> (6)" in next(line for line in shown if "end of document" in line)
    assert retrieva("verify", "data/corpus").endswith("whole\n")


def test_text_never_holds_the_pieces_that_mark_documents(llm_jp_model: Path) -> None:
    tokenizer = Tokenizer(llm_jp_model)
    texts = ["<CLS>", "</s>", "a<SEP>b", " <s> ", "<CLS|LLM-jp><SEP|LLM-jp></s>", "<EOD>"]
    special = set(tokenizer.special_ids)
    assert not any(special & set(ids.tolist()) for ids in tokenizer.encode(texts))
