"""Where a run stands in every corpus, as a function of the step alone.

The training documents of a corpus, in the keyed order of epoch 0, then of epoch 1 and so on, are one endless
stream of tokens. Stage after stage consumes contiguous ranges of it: a stage starts where the one before it
stopped, so a change of sequence length repeats nothing and leaves nothing out. Each range is cut into windows
of `seq_length - 2` tokens (the other two are `<CLS>` and `<SEP>`), or of `seq_length` where the corpora carry
both round every document (`curriculum/window.py`).

Windows are not taken in the order of the stream: a document of four million tokens would fill thirty steps in
a row. Inside every epoch of a stage the windows are shuffled by a keyed permutation. A window that straddles
the end of an epoch keeps its place, the last of its epoch, so epochs never mix and at most two epochs'
document orders are needed at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retrieva_pretrain.curriculum.blend import Blend
from retrieva_pretrain.curriculum.hashing import key_of
from retrieva_pretrain.curriculum.permutation import KeyedPermutation
from retrieva_pretrain.curriculum.stages import Curriculum
from retrieva_pretrain.curriculum.window import SPECIAL_TOKENS_PER_WINDOW
from retrieva_pretrain.recipe.schema import Recipe


@dataclass(frozen=True)
class StageRange:
    """What one stage takes of one corpus."""

    first_token: int
    """Start in the corpus's stream."""

    windows: int
    payload: int
    """Stream tokens of one window."""


class CorpusPositions:
    """The place of every sample of a run in the streams of its corpora."""

    def __init__(
        self,
        recipe: Recipe,
        names: Sequence[str],
        tokens: Sequence[int],
        blend: Blend,
        special_tokens: int = SPECIAL_TOKENS_PER_WINDOW,
    ) -> None:
        """Take each corpus's name and the tokens of its training documents (one epoch), in the blend's order.

        `special_tokens` are those of a window that come from no corpus.
        """
        self.curriculum = Curriculum(recipe)
        self.special_tokens = special_tokens
        self.seed = recipe.seed
        self.names = tuple(names)
        self.epoch_tokens = tuple(int(count) for count in tokens)
        self.blend = blend
        self._ranges = [self._ranges_of(corpus) for corpus in range(len(self.names))]

    def stage_range(self, stage: int, corpus: int) -> StageRange:
        """Return what a stage takes of a corpus."""
        return self._ranges[corpus][stage]

    def consumed(self, step: int) -> NDArray[np.int64]:
        """Return the stream tokens of each corpus that `step` steps have used, int64 [corpora]."""
        samples = self.curriculum.consumed_samples(step)
        index = self.curriculum.at(min(step, self.curriculum.total_steps - 1)).index
        start = self.curriculum.consumed_samples(self.curriculum.stage_steps(index)[0])
        windows = self.blend.counts(samples) - self.blend.counts(start)
        ranges = [self.stage_range(index, corpus) for corpus in range(len(self.names))]
        return np.array([r.first_token + int(n) * r.payload for r, n in zip(ranges, windows, strict=True)])

    def epochs(self, step: int) -> list[float]:
        """Return how many times each corpus has been seen after `step` steps."""
        return [int(used) / size for used, size in zip(self.consumed(step), self.epoch_tokens, strict=True)]

    def stream_offsets(self, stage: int, corpus: int, ordinals: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the first stream token of the windows with these numbers inside the stage, int64 [n].

        `ordinals` count the corpus's samples from the start of the stage, in the order the run takes them.
        """
        taken = self.stage_range(stage, corpus)
        windows = self._shuffled(stage, corpus, ordinals)
        return taken.first_token + windows * taken.payload

    def _shuffled(self, stage: int, corpus: int, ordinals: NDArray[np.int64]) -> NDArray[np.int64]:
        """Map the order of the run to the order of the stream, inside each epoch of the stage."""
        taken, size = self.stage_range(stage, corpus), self.epoch_tokens[corpus]
        epochs = (taken.first_token + ordinals * taken.payload) // size
        windows = ordinals.copy()
        for epoch in np.unique(epochs).tolist():
            first, last = self._windows_starting_in(taken, epoch, size)
            if taken.first_token + last * taken.payload > (epoch + 1) * size:
                last -= 1  # the last one reaches into the next epoch
            movable = np.flatnonzero((epochs == epoch) & (ordinals < last))
            if movable.size:
                key = key_of(self.seed, "window order", self.names[corpus], stage, epoch)
                windows[movable] = first + KeyedPermutation(last - first, key)(ordinals[movable] - first)
        return windows

    @staticmethod
    def _windows_starting_in(taken: StageRange, epoch: int, size: int) -> tuple[int, int]:
        """Return the first window of a stage that starts in an epoch and the first one after it."""
        first = -(-(epoch * size - taken.first_token) // taken.payload)
        after = -(-((epoch + 1) * size - taken.first_token) // taken.payload)
        return max(first, 0), min(after, taken.windows)

    def _ranges_of(self, corpus: int) -> list[StageRange]:
        ranges: list[StageRange] = []
        token = 0
        for index, stage in enumerate(self.curriculum.recipe.curriculum):
            start, end = (self.curriculum.consumed_samples(s) for s in self.curriculum.stage_steps(index))
            windows = int((self.blend.counts(end) - self.blend.counts(start))[corpus])
            payload = stage.seq_length - self.special_tokens
            ranges.append(StageRange(token, windows, payload))
            token += windows * payload
        return ranges
