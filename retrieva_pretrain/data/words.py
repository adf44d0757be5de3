"""Which SentencePiece pieces belong to one word, also where text has no spaces.

In spaced languages a word begins with the piece that carries the space, U+2581. Japanese has none, and a
morphological analyser cannot follow pieces that were cut without it. What is sensible without one: SentencePiece's
unigram pieces are words or larger (`ています。` is one), so a piece is a word of its own, except where it goes on
with what the piece before it began:

- letters or digits after letters or digits (`tri` after `Re`), katakana after katakana, hangul after hangul;
- a sign that never stands alone after anything: combining marks, the long vowel mark, iteration marks;
- whatever has no space of its own after a piece of nothing but spaces;
- a continuation byte of a character that the vocabulary does not have.

Kanji and hiragana pieces never go on: their boundaries are the tokenizer's own judgement.
"""

from __future__ import annotations

import unicodedata
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from data_prep.tokenizer import Tokenizer

_SPACE = "\u2581"


class Kind(IntEnum):
    """What stands at an end of a piece."""

    SPECIAL = 0
    """A control piece; it begins a unit of its own and nothing goes on with it."""

    SPACED = 1
    """A space and then something, at the beginning of a piece: a new word."""

    BLANK = 2
    """Nothing but spaces."""

    LETTER = 3
    """Letters and digits of scripts with spaces, hangul aside: one word, as for BERT's own tokenizer."""

    HANGUL = 4
    KATAKANA = 5
    EXTENDING = 6
    """A sign that belongs to the character before it."""

    BYTE_LEAD = 7
    BYTE_CONTINUATION = 8
    OTHER = 9
    """Kanji, hiragana, scripts without spaces, punctuation, symbols."""


# What a piece may begin with to go on with one that ends so. Signs and bytes come on top of it below.
_GOES_ON: dict[Kind, set[Kind]] = {
    Kind.BLANK: {Kind.LETTER, Kind.HANGUL, Kind.KATAKANA, Kind.BYTE_LEAD, Kind.OTHER},
    Kind.LETTER: {Kind.LETTER},
    Kind.HANGUL: {Kind.HANGUL},
    Kind.KATAKANA: {Kind.KATAKANA},
    Kind.BYTE_LEAD: {Kind.BYTE_CONTINUATION},
    Kind.BYTE_CONTINUATION: {Kind.BYTE_CONTINUATION},
}
# Written without spaces, so that pieces are all there is; hiragana and kanji are among the prefixes of names.
_UNSPACED = ("CJK", "HIRAGANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "JAVANESE", "BOPOMOFO", "YI")
_LONG_VOWEL = "\u30fc\uff70"
_ITERATION = "\u3005\u309d\u309e\u30fd\u30fe\uff9e\uff9f"


class Words:
    """The vocabulary's pieces by what they begin and end with, as one bit each, for whole batches at once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Look at every piece of a vocabulary once."""
        special = set(tokenizer.special_ids)
        kinds = [
            (Kind.SPECIAL, Kind.SPECIAL) if number in special else kinds_of(tokenizer.id_to_piece(number))
            for number in range(tokenizer.vocab_size)
        ]
        accepted = {end: _accepted_after(end) for end in Kind}
        self._begins = np.array([1 << begin for begin, _ in kinds], dtype=np.uint16)
        self._accepts = np.array([accepted[end] for _, end in kinds], dtype=np.uint16)

    def begin(self, tokens: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return where words begin in rows of tokens: bool [b, s]. The first column always does."""
        begins = np.ones(tokens.shape, dtype=np.bool_)
        goes_on = self._accepts[tokens[:, :-1]]
        goes_on &= self._begins[tokens[:, 1:]]
        np.equal(goes_on, 0, out=begins[:, 1:])
        return begins


def kinds_of(piece: str) -> tuple[Kind, Kind]:
    """Return what a piece that is no control piece begins and ends with."""
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        continuation = 0x80 <= int(piece[3:5], 16) < 0xC0
        kind = Kind.BYTE_CONTINUATION if continuation else Kind.BYTE_LEAD
        return kind, kind
    text = piece.strip(_SPACE)
    if not text:
        return Kind.SPACED, Kind.BLANK
    begin = Kind.SPACED if piece.startswith(_SPACE) else _kind_of(text[0])
    # Vocabularies that put the space behind a word end the word with it.
    end = Kind.OTHER if piece.endswith(_SPACE) else _last_kind(text)
    return begin, end


def _last_kind(text: str) -> Kind:
    """The kind of the last character that is no mere sign of the one before it."""
    for character in reversed(text):
        kind = _kind_of(character)
        if kind is not Kind.EXTENDING:
            return kind
        if character in _LONG_VOWEL:
            return Kind.KATAKANA
    return Kind.OTHER


def _kind_of(character: str) -> Kind:
    category = unicodedata.category(character)
    if category[0] == "M" or character in _LONG_VOWEL or character in _ITERATION or character == "\u200d":
        return Kind.EXTENDING
    if category[0] not in "LN":
        return Kind.OTHER
    name = unicodedata.name(character, "").removeprefix("HALFWIDTH ")
    if name.startswith("KATAKANA"):
        return Kind.KATAKANA
    if name.startswith("HANGUL"):
        return Kind.HANGUL
    if category in ("No", "Nl") or name.startswith(_UNSPACED) or not name:
        return Kind.OTHER
    return Kind.LETTER


def _accepted_after(end: Kind) -> int:
    """Return the kinds that go on after `end`, a bit each."""
    if end is Kind.SPECIAL:
        return 0
    kinds = _GOES_ON.get(end, set()) | {Kind.EXTENDING}
    return sum(1 << kind for kind in kinds)
