"""Which documents of a corpus are kept for evaluation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from retrieva_pretrain.curriculum.hashing import hash64, key_of


def is_held_out(corpus: str, documents: int, fraction: float) -> NDArray[np.bool_]:
    """Return, for each document of a corpus, whether it is kept for evaluation: bool [documents].

    A document's hash decides, not the run's seed, so runs with other seeds are evaluated on the same text, and
    a larger fraction only adds documents. A positive fraction keeps at least one document where there are two
    or more, and always leaves one to train on.
    """
    if fraction <= 0 or documents < 2:
        return np.zeros(documents, dtype=np.bool_)
    hashes = hash64(np.arange(documents), key_of("held out", corpus))
    chosen = hashes < np.uint64(int(fraction * 2.0**64))
    if not chosen.any():
        chosen[np.argmin(hashes)] = True
    if chosen.all():
        chosen[np.argmax(hashes)] = False
    return np.asarray(chosen)
