"""The tokenizer made here has LLM-jp's special pieces under LLM-jp's ids and loses no character."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from data_prep.corpus import CorpusConfig
from data_prep.errors import DataPrepError
from data_prep.tokenizer import CLS_SPELLINGS, MASK_SPELLINGS, PAD_SPELLINGS, SEP_SPELLINGS, Tokenizer
from data_prep.train_tokenizer import train_tokenizer

SPECIAL = ["<unk>", "<s>", "</s>", "<MASK>", "<PAD>", "<CLS>", "<SEP>", "<EOD>"]


@pytest.fixture
def corpus(tmp_path: Path, configure: Any, write_jsonl: Any) -> CorpusConfig:
    """A corpus of invented words."""
    draw = random.Random(0)
    words = ["".join(draw.choices("あいうえおかきくけこabcdefg", k=draw.randint(2, 5))) for _ in range(300)]
    texts = [" ".join(draw.choices(words, k=12)) for _ in range(500)]
    return configure(write_jsonl(tmp_path / "a.jsonl", [*texts, "x" * 50_000, "half \ufffd"]))


def test_special_pieces_have_the_ids_of_llm_jps(tmp_path: Path, corpus: CorpusConfig) -> None:
    tokenizer = train_tokenizer([corpus], tmp_path / "new" / "small.model", 400)
    assert tokenizer.vocab_size == 400
    assert [tokenizer.id_to_piece(number) for number in range(8)] == SPECIAL
    assert tokenizer.special_ids == list(range(8))
    spellings = [MASK_SPELLINGS, PAD_SPELLINGS, CLS_SPELLINGS, SEP_SPELLINGS]
    assert [tokenizer.find_piece(*names) for names in spellings] == [3, 4, 5, 6]
    assert tokenizer.sha256 == Tokenizer(tmp_path / "new" / "small.model").sha256


def test_its_special_pieces_are_those_of_the_real_model(
    tmp_path: Path, corpus: CorpusConfig, llm_jp_model: Path
) -> None:
    ours, theirs = train_tokenizer([corpus], tmp_path / "small.model", 400), Tokenizer(llm_jp_model)
    spellings = [MASK_SPELLINGS, PAD_SPELLINGS, CLS_SPELLINGS, SEP_SPELLINGS]
    assert [ours.find_piece(*names) for names in spellings] == [
        theirs.find_piece(*names) for names in spellings
    ]
    assert [ours.piece_id(name) for name in ("<unk>", "<s>", "</s>")] == [
        theirs.piece_id(name) for name in ("<unk>", "<s>", "</s>")
    ]


@pytest.mark.parametrize(
    "text", ["漢字 \U0001f427", "  indented\n\ttab  ", "ａｂｃ㍿", "<s></s><MASK>", "한국어\u0301"]
)
def test_any_text_comes_back_and_never_as_a_special_piece(
    tmp_path: Path, corpus: CorpusConfig, text: str
) -> None:
    tokenizer = train_tokenizer([corpus], tmp_path / "small.model", 400)
    ids = tokenizer.encode([text])[0]
    assert not set(ids) & set(tokenizer.special_ids)
    assert tokenizer.decode(ids) == text


def test_the_same_texts_give_the_same_model(tmp_path: Path, corpus: CorpusConfig) -> None:
    train_tokenizer([corpus], tmp_path / "one.model", 400)
    train_tokenizer([corpus], tmp_path / "two.model", 400)
    assert (tmp_path / "one.model").read_bytes() == (tmp_path / "two.model").read_bytes()


def test_too_large_a_vocabulary_says_the_largest_which_then_works(
    tmp_path: Path, corpus: CorpusConfig
) -> None:
    with pytest.raises(
        DataPrepError, match=r"100000 is more than the text carries; ask for \d+ pieces"
    ) as refusal:
        train_tokenizer([corpus], tmp_path / "small.model", 100_000)
    assert not (tmp_path / "small.model").exists()
    largest = int(str(refusal.value).split("ask for ")[1].split()[0])
    assert train_tokenizer([corpus], tmp_path / "small.model", largest).vocab_size == largest


@pytest.mark.parametrize("vocab_size", [0, 5, 270])
def test_too_small_a_vocabulary_is_refused(tmp_path: Path, corpus: CorpusConfig, vocab_size: int) -> None:
    with pytest.raises(DataPrepError, match=str(vocab_size)):
        train_tokenizer([corpus], tmp_path / "small.model", vocab_size)
    assert not (tmp_path / "small.model").exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [(b'{"text": "a"}\n{"tex', r"bad\.jsonl: line 2: not valid JSON"), (None, r"bad\.jsonl matches no file")],
)
def test_a_corpus_that_cannot_be_read_is_named(
    tmp_path: Path, configure: Any, data: bytes | None, message: str
) -> None:
    if data is not None:
        (tmp_path / "bad.jsonl").write_bytes(data)
    with pytest.raises(DataPrepError, match=message):
        train_tokenizer([configure(tmp_path / "bad.jsonl")], tmp_path / "small.model", 400)
    assert not (tmp_path / "small.model").exists()


def test_corpora_without_text_are_refused(tmp_path: Path, configure: Any, write_jsonl: Any) -> None:
    empty = configure(write_jsonl(tmp_path / "a.jsonl", [""]))
    with pytest.raises(DataPrepError):
        train_tokenizer([empty], tmp_path / "small.model", 400)
    assert not (tmp_path / "small.model").exists()
