"""Where documents begin inside samples, read off the tokens themselves.

Every document ends with the corpus's end token, which is a control piece and so never comes from a text. A
window that begins or ends inside a document holds a part of it, which counts as a document of its own.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

_BOUNDS_MULTIPLE = 64


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


def document_bounds(segments: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return where documents begin when the samples [b, s] are laid end to end: int32 [n + 1], the last b x s.

    What attention over documents of different lengths calls `cu_seqlens`. A sample begins a document. n + 1 is rounded
    up to a multiple of 64 with empty documents at the end (the last bound again), so that kernels which are compiled
    or chosen for a shape meet few of them.
    """
    begins = np.ones(segments.shape, dtype=np.bool_)
    begins[:, 1:] = segments[:, 1:] != segments[:, :-1]
    first = np.flatnonzero(begins)
    count = -(-(len(first) + 1) // _BOUNDS_MULTIPLE) * _BOUNDS_MULTIPLE
    bounds = np.full(count, segments.size, dtype=np.int32)
    bounds[: len(first)] = first
    return bounds
