"""Where documents begin inside samples, read off the tokens themselves.

Every document ends with the corpus's end token, which is a control piece and so never comes from a text. A
window that begins or ends inside a document holds a part of it, which counts as a document of its own.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray


def segment_ids(
    tokens: NDArray[np.int64], ends: Collection[int], *, window_tokens: bool
) -> NDArray[np.int64]:
    """Return the number of each token's document within its sample, from 0: int64 [b, s].

    Args:
        tokens: [b, s], not yet masked.
        ends: the ids that end a document; an end token belongs to the document before it.
        window_tokens: whether the first and the last column are the window's own `<CLS>` and `<SEP>`. They
            belong to the first and the last document.
    """
    ended = np.zeros(tokens.shape, dtype=np.bool_)
    for end in ends:
        ended[:, 1:] |= tokens[:, :-1] == end
    if window_tokens:
        ended[:, -1] = False
    return np.asarray(np.cumsum(ended, axis=1, dtype=np.int64))


def position_ids(segments: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return positions that begin at 0 in every segment: int64 [b, s] for segments of that shape."""
    columns = np.arange(segments.shape[1])
    begins = np.zeros(segments.shape, dtype=np.int64)
    changed = segments[:, 1:] != segments[:, :-1]
    np.multiply(changed, columns[1:], out=begins[:, 1:])
    return np.asarray(columns - np.maximum.accumulate(begins, axis=1))
