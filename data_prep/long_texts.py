"""Tokenizing a text of many megabytes in parts, with the ids of the whole, exact score ties aside.

SentencePiece holds some 20 bytes for each byte of a text, 1.2 GB for 50 MB, and adds up the scores of a
text in one float32, which runs out of digits in long ones. A text is cut where no piece of the vocabulary
holds the two characters on both sides of the cut: no segmentation reaches across, so the best one of the
whole is the best ones of the parts in a row. Where two have the very same score, the rounding of the
sums decides, and that differs with what stands before.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

WHOLE = 1 << 22
"""Bytes of UTF-8 up to which a text is encoded whole, as every other program does."""

_PART = 1 << 20
_SPACE = "\u2581"


class LongTexts:
    """Encodes long texts with the tokenizer behind `encode`.

    `pieces` are those of the vocabulary, `normalize` is the tokenizer's own normalisation.
    """

    def __init__(
        self,
        encode: Callable[[str], npt.NDArray[np.int32]],
        pieces: Iterable[str],
        normalize: Callable[[str], str],
    ) -> None:
        self._encode = encode
        self._pairs = {pair for piece in pieces for pair in itertools.pairwise(piece)}
        # Only a tokenizer that leaves the text as it is can be cut anywhere: others look at the neighbours.
        plain = normalize("a  b\nc\u3000\uff21")
        self._prefix = _SPACE if plain.startswith(_SPACE) else ""
        self._can_cut = plain.removeprefix(_SPACE) == f"a{_SPACE}{_SPACE}b\nc\u3000\uff21"

    def encode(self, text: str, part: int = _PART) -> npt.NDArray[np.int32] | None:
        """The ids of a text, or None where this tokenizer's texts cannot be cut."""
        if not self._can_cut:
            return None
        found = []
        start = 0
        while start < len(text):
            end = self._cut(text, start + part)
            ids = self._encode(text[start:end])
            # Each part but the first begins with a prefix that the whole text does not have there.
            found.append(ids[1:] if start and self._prefix else ids)
            start = end
        return np.concatenate(found) if found else np.zeros(0, np.int32)

    def _cut(self, text: str, at: int) -> int:
        """The first place from `at` on where no piece can reach across."""
        before = _SPACE if text[at - 1 : at] == " " else text[at - 1 : at]
        for position in range(at, len(text)):
            after = _SPACE if text[position] == " " else text[position]
            # The prefix of the next part must stay a piece of its own, too.
            apart = (before, after) not in self._pairs
            if apart and (not self._prefix or (self._prefix, after) not in self._pairs):
                return position
            before = after
        return len(text)
