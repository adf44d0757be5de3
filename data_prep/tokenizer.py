"""A SentencePiece model with its special pieces looked up by name, never by a guessed id."""

from __future__ import annotations

import difflib
import hashlib
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import sentencepiece

from data_prep.errors import DataPrepError
from data_prep.long_texts import WHOLE, LongTexts

MASK_SPELLINGS = ("<MASK>", "<MASK|LLM-jp>", "<mask>", "[MASK]")
PAD_SPELLINGS = ("<PAD>", "<PAD|LLM-jp>", "<pad>", "[PAD]")
CLS_SPELLINGS = ("<CLS>", "<CLS|LLM-jp>", "<cls>", "[CLS]")
SEP_SPELLINGS = ("<SEP>", "<SEP|LLM-jp>", "<sep>", "[SEP]")


class Tokenizer:
    """A SentencePiece model read from a file.

    Raises `DataPrepError` when the file is missing or is not a SentencePiece model.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        try:
            # A device or a pipe would be read for ever.
            if self.path.exists() and not self.path.is_file():
                raise DataPrepError(
                    f"{self.path} is not a file. Give the path of a SentencePiece .model file as tokenizer.model."
                )
            model = self.path.read_bytes()
        except OSError as error:
            raise DataPrepError(
                f"{self.path}: the tokenizer cannot be read ({error.strerror or error}). "
                "Give the path of a SentencePiece .model file as tokenizer.model."
            ) from None
        self.sha256 = hashlib.sha256(model).hexdigest()
        self.sentencepiece_version: str = sentencepiece.__version__
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            loaded = bool(model) and self._processor.LoadFromSerializedProto(model)
        except (RuntimeError, OSError, ValueError):
            loaded = False
        if not loaded or not self._processor.GetPieceSize():
            raise DataPrepError(
                f"{self.path}: not a SentencePiece model (or one cut short). "
                "Give a .model file as tokenizer.model, not a vocabulary list or a tokenizer.json."
            )

    @cached_property
    def vocab_size(self) -> int:
        """Number of pieces."""
        return int(self._processor.GetPieceSize())

    @cached_property
    def special_ids(self) -> list[int]:
        """Ids of the CONTROL and UNKNOWN pieces, ascending: those that are never text."""
        model = self._processor
        return [i for i in range(self.vocab_size) if model.IsControl(i) or model.IsUnknown(i)]

    def has_piece(self, piece: str) -> bool:
        """Whether the vocabulary holds the piece."""
        # An unknown piece is answered with the id of <unk>, so the answer has to be asked back.
        return self.id_to_piece(int(self._processor.PieceToId(piece))) == piece

    def piece_id(self, piece: str) -> int:
        """The id of a piece; `DataPrepError` naming the nearest pieces when it is absent."""
        if self.has_piece(piece):
            return int(self._processor.PieceToId(piece))
        raise DataPrepError(f"{self.path}: no piece {piece!r} in this tokenizer. {self._near(piece)}")

    def find_piece(self, *candidates: str) -> int:
        """The id of the first candidate that exists; `DataPrepError` naming all of them when none does."""
        for piece in candidates:
            if self.has_piece(piece):
                return int(self._processor.PieceToId(piece))
        names = ", ".join(repr(piece) for piece in candidates)
        raise DataPrepError(
            f"{self.path}: none of the pieces {names} in this tokenizer. {self._near(candidates[0])}"
        )

    def id_to_piece(self, number: int) -> str:
        """The piece of an id; `IndexError` outside the vocabulary."""
        if not 0 <= number < self.vocab_size:
            raise IndexError(f"piece {number} of {self.vocab_size}")
        return str(self._processor.IdToPiece(number))

    def encode(self, texts: Sequence[str] | Sequence[bytes]) -> list[npt.NDArray[np.int32]]:
        """Token ids of each text, without any special piece. The texts must be valid Unicode, or its UTF-8."""
        inputs: Any = list(texts)
        ids: list[npt.NDArray[np.int32]] = self._processor.Encode(inputs, return_type="numpy", num_threads=1)
        return ids

    def encode_documents(
        self, texts: Sequence[bytes], repaired: Counter[str] | None = None
    ) -> list[npt.NDArray[np.int32]]:
        """As `encode`, of texts in UTF-8, in bounded memory however long a text is.

        Texts past `long_texts.WHOLE` bytes are encoded in parts, cut where no piece can reach across, and are
        counted in `repaired` as `encoded_in_parts`.
        """
        if all(len(text) <= WHOLE for text in texts):
            return self.encode(texts)
        found = []
        for text in texts:
            if len(text) > WHOLE and (parts := self._long_texts.encode(text.decode())) is not None:
                found.append(parts)
                if repaired is not None:
                    repaired["encoded_in_parts"] += 1
            else:
                found += self.encode([text])
        return found

    @cached_property
    def _long_texts(self) -> LongTexts:
        pieces = (self.id_to_piece(number) for number in range(self.vocab_size))
        return LongTexts(lambda text: self.encode([text])[0], pieces, self._processor.Normalize)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids; CONTROL pieces leave nothing. `IndexError` outside the vocabulary."""
        numbers = [int(number) for number in ids]
        for number in numbers:
            if not 0 <= number < self.vocab_size:
                raise IndexError(f"piece {number} of {self.vocab_size}")
        return str(self._processor.Decode(numbers))

    def _near(self, piece: str) -> str:
        special = [self.id_to_piece(number) for number in self.special_ids]
        near = difflib.get_close_matches(piece, special, n=3, cutoff=0.5)
        names = ", ".join(near or special[:10])
        return f"{'Near ones' if near else 'Its special pieces'}: {names}."
