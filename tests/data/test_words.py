"""Words made of SentencePiece pieces, where text has spaces and where it has none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_prep.tokenizer import Tokenizer
from retrieva_pretrain.data.words import Kind, Words, kinds_of


@pytest.fixture(scope="module")
def llm_jp(llm_jp_model: Path) -> tuple[Tokenizer, Words]:
    """LLM-jp's tokenizer and the words of its vocabulary."""
    tokenizer = Tokenizer(llm_jp_model)
    return tokenizer, Words(tokenizer)


def words_of(text: str, llm_jp: tuple[Tokenizer, Words]) -> str:
    """A text's pieces, `+` between those of one word and a space between words."""
    tokenizer, words = llm_jp
    ids = tokenizer.encode([text])[0].astype(np.int64)
    begins = words.begin(ids[None])[0]
    assert begins[0]
    pieces = [tokenizer.id_to_piece(int(number)) for number in ids]
    return "".join((" " if begin else "+") + piece for begin, piece in zip(begins, pieces, strict=True))[1:]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        # A unigram piece of Japanese is a word of its own, particles and endings included ...
        (
            "国立情報学研究所は、大規模言語モデルを公開した。",
            "▁国立 情報 学 研究所 は、 大規模 言語 モデル を 公開 した。",
        ),
        ("彼女は東京都渋谷区で働いています。", "▁彼女 は 東京都 渋谷区 で 働い ています。"),
        # ... but a katakana word, a Latin word and a number stay whole when the tokenizer cut them,
        ("スクレイピングの練習", "▁ス+クレイ+ピング の 練習"),
        ("次はアーキテクチャーだ", "▁次 は アーキテクチャ+ー だ"),
        ("Retrieva株式会社", "▁Re+tri+eva 株式会社"),
        ("ＡＢＣ１２３と", "▁Ａ+ＢＣ+１２+３ と"),
        ("2024年12月", "▁20+24 年 12 月"),
        # and a character that the vocabulary does not have is one word of four bytes.
        ("古𠮷野家", "▁古 <0xF0>+<0xA0>+<0xAE>+<0xB7> 野 家"),
        # The lonely space before a piece belongs to it.
        ("髙橋さん", "▁+髙 橋 さん"),
        # Languages with spaces: a word begins with its space, punctuation stands alone.
        ("pretraining of LLMs", "▁pre+training ▁of ▁LL+Ms"),
        ("naïve idea, x_y", "▁na+ï+ve ▁idea , ▁x _ y"),
        ("형태소 분석기를 사용한다", "▁형태+소 ▁분석+기를 ▁사용한+다"),
    ],
)
def test_words_of_real_text(text: str, words: str, llm_jp: tuple[Tokenizer, Words]) -> None:
    assert words_of(text, llm_jp) == words


@pytest.mark.parametrize(
    ("piece", "kinds"),
    [
        ("▁", (Kind.SPACED, Kind.BLANK)),
        ("▁▁▁▁", (Kind.SPACED, Kind.BLANK)),
        ("▁the", (Kind.SPACED, Kind.LETTER)),
        ("the▁", (Kind.LETTER, Kind.OTHER)),
        ("ing", (Kind.LETTER, Kind.LETTER)),
        ("モデル", (Kind.KATAKANA, Kind.KATAKANA)),
        ("ｶﾞｷﾞ", (Kind.KATAKANA, Kind.KATAKANA)),
        ("ー", (Kind.EXTENDING, Kind.KATAKANA)),
        ("々", (Kind.EXTENDING, Kind.OTHER)),
        ("さのデータ", (Kind.OTHER, Kind.KATAKANA)),
        ("は、", (Kind.OTHER, Kind.OTHER)),
        ("・", (Kind.OTHER, Kind.OTHER)),
        ("сло", (Kind.LETTER, Kind.LETTER)),
        ("한국", (Kind.HANGUL, Kind.HANGUL)),
        ("ไทย", (Kind.OTHER, Kind.OTHER)),
        ("2024", (Kind.LETTER, Kind.LETTER)),
        ("①", (Kind.OTHER, Kind.OTHER)),
        ("\u0301", (Kind.EXTENDING, Kind.OTHER)),
        ("<0xE3>", (Kind.BYTE_LEAD, Kind.BYTE_LEAD)),
        ("<0x81>", (Kind.BYTE_CONTINUATION, Kind.BYTE_CONTINUATION)),
        ("<0x0A>", (Kind.BYTE_LEAD, Kind.BYTE_LEAD)),
    ],
)
def test_a_piece_is_known_by_its_ends(piece: str, kinds: tuple[Kind, Kind]) -> None:
    assert kinds_of(piece) == kinds


def test_nothing_goes_on_with_a_special_piece_or_in_the_first_column(
    llm_jp: tuple[Tokenizer, Words],
) -> None:
    tokenizer, words = llm_jp
    tail, end, start = (tokenizer.piece_id(piece) for piece in ("ing", "</s>", "<CLS>"))
    row = [tail, tail, end, tail, tail, start, tail]
    assert words.begin(np.array([row]))[0].tolist() == [True, False, True, True, False, True, True]


def test_every_piece_of_a_vocabulary_has_its_kinds(small_tokenizer: Tokenizer) -> None:
    every = np.arange(small_tokenizer.vocab_size)[None]
    assert Words(small_tokenizer).begin(every)[0, small_tokenizer.special_ids].all()
