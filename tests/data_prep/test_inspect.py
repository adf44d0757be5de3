"""The numbers of a corpus, and its documents as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data_prep.build import build
from data_prep.corpus import TokenizerConfig
from data_prep.errors import DataPrepError
from data_prep.inspect import inspect
from data_prep.tokenizer import Tokenizer

TEXTS = ["あいう かきく", "abc defg abc", "abc"]


@pytest.fixture
def model(tmp_path: Path, small_tokenizer: Tokenizer) -> Path:
    """A tokenizer of the test's own, which it may take away."""
    path = tmp_path / "own.model"
    path.write_bytes(small_tokenizer.path.read_bytes())
    return path


@pytest.fixture
def prefix(tmp_path: Path, configure: Any, write_jsonl: Any, model: Path) -> Path:
    """A corpus of three documents."""
    file = write_jsonl(tmp_path / "a.jsonl", TEXTS)
    build(configure(file, tokenizer=TokenizerConfig(model=str(model))), tmp_path / "out")
    return tmp_path / "out" / "corpus"


def test_documents_come_back_as_text(prefix: Path) -> None:
    seen = inspect(prefix, [1, -1, 0]).documents
    assert [(view.number, view.text) for view in seen] == [(1, TEXTS[1]), (2, TEXTS[2]), (0, TEXTS[0])]
    assert [view.tokens for view in seen] == [len(view.ids) for view in seen]


def test_the_numbers_are_those_of_the_corpus(prefix: Path, small_tokenizer: Tokenizer) -> None:
    seen = inspect(prefix)
    lengths = sorted(len(ids) + 1 for ids in small_tokenizer.encode(TEXTS))
    assert seen.document_tokens == {
        **{"min": lengths[0], "median": lengths[1]},
        **{"p95": lengths[1], "max": lengths[2]},
    }
    text_bytes = sum(len(text.encode()) for text in TEXTS)
    assert seen.bytes_per_token == text_bytes / (sum(lengths) - 3)
    assert seen.fingerprint == seen.manifest.fingerprint
    assert (seen.documents, seen.note) == ([], None)


@pytest.mark.parametrize("number", [3, -4])
def test_a_document_that_is_not_there_is_refused(prefix: Path, number: int) -> None:
    with pytest.raises(DataPrepError, match=f"no document {number}; it holds 3"):
        inspect(prefix, [number])


@pytest.mark.parametrize(("content", "note"), [(None, "is not here"), ("other", "is not the model")])
def test_without_the_tokenizer_of_the_corpus_there_are_ids_and_no_wrong_text(
    prefix: Path, model: Path, content: str | None, note: str
) -> None:
    data = model.read_bytes()
    model.unlink()
    if content is not None:
        model.write_bytes(data + b"\xaa\x06\x01x")
    seen = inspect(prefix, [0])
    assert seen.documents[0].text is None
    assert seen.documents[0].ids
    assert seen.note is not None
    assert note in seen.note


def test_an_empty_corpus_has_numbers_too(tmp_path: Path, configure: Any, write_jsonl: Any) -> None:
    build(configure(write_jsonl(tmp_path / "a.jsonl", [])), tmp_path / "out")
    seen = inspect(tmp_path / "out" / "corpus")
    assert (seen.bytes_per_token, seen.document_tokens) == (0.0, {})


def test_ids_outside_the_vocabulary_are_said(prefix: Path) -> None:
    data = bytearray(prefix.with_name("corpus.bin").read_bytes())
    data[:2] = b"\xff\xff"
    prefix.with_name("corpus.bin").write_bytes(data)
    with pytest.raises(DataPrepError, match="document 0 holds ids outside the vocabulary"):
        inspect(prefix, [0])
