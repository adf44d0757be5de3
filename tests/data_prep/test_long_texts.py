"""A text of any length is encoded in bounded memory with the ids of the whole."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from data_prep import tokenizer as tokenizer_module
from data_prep.long_texts import LongTexts
from data_prep.tokenizer import Tokenizer


def long_texts(tokenizer: Tokenizer) -> LongTexts:
    return tokenizer._long_texts


@pytest.mark.parametrize("part", [50, 1000])
def test_parts_have_the_ids_of_the_whole_on_real_japanese(
    shared: Path, llm_jp_model: Path, part: int
) -> None:
    tokenizer = Tokenizer(llm_jp_model)
    path = shared / "corpora" / "llm-jp-cc" / "CC-MAIN-2017-04.jsonl.gz"
    texts = [
        json.loads(line)["text"][:20_000] for line in gzip.decompress(path.read_bytes()).splitlines()[:60]
    ]
    different = 0
    for text in texts:
        parts, whole = long_texts(tokenizer).encode(text, part), tokenizer.encode([text])[0]
        assert parts is not None
        # Two segmentations of the very same score are told apart by the rounding of their sums alone.
        assert len(parts) == len(whole)
        assert tokenizer.decode(parts.tolist()) == text
        different += int((parts != whole).sum())
    assert different <= 10


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        " a  b ",
        "\n\n\n a\n",
        "a " * 300,
        " " * 400,
        "▁▁ ▁a",
        "あいう\u3000かき\n " * 80,
        "\U0001f427\n" * 99,
    ],
)
@pytest.mark.parametrize("part", [1, 2, 7, 64])
def test_parts_have_the_ids_of_the_whole_on_hostile_text(llm_jp_model: Path, text: str, part: int) -> None:
    tokenizer = Tokenizer(llm_jp_model)
    parts = long_texts(tokenizer).encode(text, part)
    assert parts is not None
    assert parts.tolist() == tokenizer.encode([text])[0].tolist()


def test_a_tokenizer_that_changes_the_text_is_not_given_parts(small_tokenizer: Tokenizer) -> None:
    # SentencePiece's default normalisation (NFKC, spaces in a row made one) looks across any cut.
    assert long_texts(small_tokenizer).encode("abc あいう") is None


def test_long_documents_are_counted(llm_jp_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer_module, "WHOLE", 1000)
    tokenizer, repaired = Tokenizer(llm_jp_model), Counter[str]()
    texts = ["短い", "長い文章です。\n" * 400]
    found = tokenizer.encode_documents([text.encode() for text in texts], repaired)
    assert [ids.tolist() for ids in found] == [ids.tolist() for ids in tokenizer.encode(texts)]
    assert repaired == {"encoded_in_parts": 1}
