"""A SentencePiece model as transformers' fast tokenizer: `tokenizer.json`, with the same ids for any text.

What the usual conversions lose, and what is done here:

- Special and byte pieces are never text in SentencePiece, but any piece is in `tokenizers`' Unigram. They get a score
  so low that the same characters in other pieces always win; where no score can promise that, text is kept from spelling
  them: `<` becomes a blank, which no text holds once blanks are `▁`, in text and in the pieces that are text.
- No pre-tokenizer and no added tokens: both cut the text before the model sees it. The mask is the one special piece that
  a prompt may hold, and wins by its score; so no `▁` comes after it, and the other special pieces written out in a text
  are text (`split_special_tokens`).
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sentencepiece import sentencepiece_model_pb2 as model_pb2
from tokenizers import Regex, decoders, models, normalizers, processors
from tokenizers import Tokenizer as FastTokenizer

from data_prep.tokenizer import CLS_SPELLINGS, MASK_SPELLINGS, PAD_SPELLINGS, SEP_SPELLINGS, Tokenizer
from retrieva_pretrain.errors import RetrievaError

MASK, PAD, CLS, SEP = (f"<{name}|LLM-jp>" for name in ("MASK", "PAD", "CLS", "SEP"))
_SPELLINGS = {MASK: MASK_SPELLINGS, PAD: PAD_SPELLINGS, CLS: CLS_SPELLINGS, SEP: SEP_SPELLINGS}
# sentencepiece_model.proto
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
_TEXT = _NORMAL, _USER_DEFINED
_UNIGRAM = 1
_BLANK = "▁"
# Above every sum of scores (they are negative), so that the mask in a prompt is the mask.
_MASK_SCORE = 1000.0


class ExportedTokenizerError(RetrievaError):
    """A SentencePiece model that cannot become a fast tokenizer; the message says why."""


@dataclass(frozen=True)
class ExportedTokenizer:
    """A fast tokenizer with what transformers keeps beside it."""

    fast: FastTokenizer
    special_tokens: dict[str, str]
    """`bos_token` and so on, in Hugging Face's spelling."""

    ids: dict[str, int]
    """The ids of those."""

    def write(self, folder: Path, model_max_length: int) -> None:
        """Write `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json` into a folder."""
        self.fast.save(str(folder / "tokenizer.json"))
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **self.special_tokens,
            "split_special_tokens": True,
            "clean_up_tokenization_spaces": False,
            "model_input_names": ["input_ids", "attention_mask"],
            "model_max_length": model_max_length,
        }
        for name, content in (
            ("tokenizer_config.json", config),
            ("special_tokens_map.json", self.special_tokens),
        ):
            (folder / name).write_text(
                json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
            )


def export_tokenizer(tokenizer: Tokenizer) -> ExportedTokenizer:
    """Turn a SentencePiece Unigram model with LLM-jp's special pieces into a fast tokenizer.

    A text becomes `<CLS|LLM-jp> text <SEP|LLM-jp>`, two become `<CLS|LLM-jp> one <SEP|LLM-jp> two <SEP|LLM-jp>`.

    Raises:
        ExportedTokenizerError: it is no Unigram model, or asks for what `tokenizers` has no counterpart of.
        DataPrepError: it lacks a special piece.
    """
    proto = model_pb2.ModelProto()
    proto.ParseFromString(tokenizer.path.read_bytes())
    _refuse_what_differs(tokenizer.path, proto)
    pieces = [piece.piece for piece in proto.pieces]
    for spelling, candidates in _SPELLINGS.items():
        pieces[tokenizer.find_piece(*candidates)] = spelling
    vocabulary, is_hidden = _vocabulary(proto, pieces)
    fast = FastTokenizer(
        models.Unigram(
            vocabulary, unk_id=_only(proto, _UNKNOWN), byte_fallback=proto.trainer_spec.byte_fallback
        )
    )
    fast.normalizer = _normalizer(proto, is_hidden=is_hidden)
    names = {
        "bos_token": pieces[proto.trainer_spec.bos_id],
        "eos_token": pieces[proto.trainer_spec.eos_id],
        "unk_token": pieces[_only(proto, _UNKNOWN)],
        "mask_token": MASK,
        "pad_token": PAD,
        "cls_token": CLS,
        "sep_token": SEP,
    }
    ids = {name: pieces.index(spelling) for name, spelling in names.items()}
    fast.post_processor = processors.TemplateProcessing(
        single=f"{CLS} $A {SEP}",
        pair=f"{CLS} $A {SEP} $B {SEP}",
        special_tokens=[(CLS, ids["cls_token"]), (SEP, ids["sep_token"])],
    )
    fast.decoder = decoders.Sequence(
        [
            decoders.ByteFallback(),
            decoders.Fuse(),
            *([decoders.Replace(" ", "<")] if is_hidden else []),
            decoders.Replace(_BLANK, " "),
            *([decoders.Strip(" ", 1, 0)] if proto.normalizer_spec.add_dummy_prefix else []),
        ]
    )
    return ExportedTokenizer(fast, names, ids)


def _refuse_what_differs(path: Path, proto: Any) -> None:
    if proto.trainer_spec.model_type != _UNIGRAM:
        raise ExportedTokenizerError(
            f"{path}: only Unigram models can be exported, and this is another kind."
        )
    if proto.trainer_spec.treat_whitespace_as_suffix or not proto.normalizer_spec.escape_whitespaces:
        raise ExportedTokenizerError(
            f"{path}: `▁` must stand before words; this model treats blanks otherwise."
        )
    for piece in proto.pieces:
        if piece.type == _UNUSED:
            raise ExportedTokenizerError(
                f"{path}: holds the unused piece {piece.piece!r}, which has no counterpart."
            )


def _only(proto: Any, kind: int) -> int:
    (number,) = (number for number, piece in enumerate(proto.pieces) if piece.type == kind)
    return int(number)


def _vocabulary(proto: Any, pieces: list[str]) -> tuple[list[tuple[str, float]], bool]:
    """Return pieces with scores such that nothing but text and the mask is ever found in a text.

    Also whether `<` had to be hidden for that.

    Both libraries give an unknown character the lowest score less 10. A lower score for special pieces therefore makes
    unknown characters dearer; that changes nothing where each of them is unknown in every piece.
    """
    text = {p.piece: _score(p) for p in proto.pieces if p.type in _TEXT}
    lowest = min(text.values())
    never = [spelling for spelling, p in zip(pieces, proto.pieces, strict=True) if p.type not in _TEXT]
    enough = min((_best_score(spelling, text) for spelling in never if spelling != MASK), default=0.0) - 1.0
    is_closed = all(character in text for piece in text for character in piece)
    if enough >= lowest or (is_closed and enough > -math.inf):
        low = min(lowest, enough)
        scores = [_score(p) if p.type in _TEXT else low for p in proto.pieces]
        vocabulary = list(zip(pieces, scores, strict=True))
        vocabulary[pieces.index(MASK)] = (MASK, _MASK_SCORE)
        return vocabulary, False
    return _hidden_vocabulary(proto, pieces, lowest), True


def _score(piece: Any) -> float:
    """Return the score with which SentencePiece weighs a piece that is text.

    Of user-defined ones `length x largest score - 0.1` (unigram_model.cc), where the largest starts at the smallest
    positive float and scores are negative.
    """
    return -0.1 if piece.type == _USER_DEFINED else float(piece.score)


def _hidden_vocabulary(proto: Any, pieces: list[str], lowest: float) -> list[tuple[str, float]]:
    """Spell `<` as a blank in all pieces that are text. The byte pieces of the two change their names along."""
    swapped = {"<0x3C>": "<0x20>", "<0x20>": "<0x3C>"}
    vocabulary = []
    for spelling, piece in zip(pieces, proto.pieces, strict=True):
        if piece.type in _TEXT:
            vocabulary.append((spelling.replace("<", " "), _score(piece)))
        else:
            score = _MASK_SCORE if spelling == MASK else lowest
            vocabulary.append((swapped.get(spelling, spelling), score))
    return vocabulary


def _best_score(spelling: str, text: dict[str, float]) -> float:
    """Return the score of the best way to write a string in pieces of text; minus infinity where there is none."""
    best = [0.0] + [-math.inf] * len(spelling)
    for end in range(1, len(spelling) + 1):
        for start in range(end):
            if (score := text.get(spelling[start:end])) is not None:
                best[end] = max(best[end], best[start] + score)
    return best[-1]


def _normalizer(proto: Any, *, is_hidden: bool) -> Any:
    spec = proto.normalizer_spec
    steps: list[Any] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Replace(Regex(r"\A "), "")]
    # The blank first: then a `▁` before the text is there once, also before a text that begins with a blank.
    steps.append(normalizers.Replace(" ", _BLANK))
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend(_BLANK))
    if spec.remove_extra_whitespaces:
        # SentencePiece takes blanks off the end when they are `▁` already, so those of the text itself go too.
        steps.append(normalizers.Replace(Regex(rf"{_BLANK}+\z"), ""))
    if is_hidden:
        steps.append(normalizers.Replace(Regex(f"<(?!{re.escape(MASK[1:])})"), " "))
    return normalizers.Sequence(steps)
