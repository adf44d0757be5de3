"""Samples by their number in the run, and the share of a step that each process takes.

A sample is `<CLS>`, `seq_length - 2` tokens of one corpus's stream, `<SEP>`. Documents inside it are separated
by the end token that the corpus carries. Sample numbers count from the first step of the run; step N takes
the `global_batch_size` numbers from `N * global_batch_size` on, whatever the number of processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retrieva_pretrain.curriculum.hashing import key_of
from retrieva_pretrain.curriculum.position import SPECIAL_TOKENS_PER_WINDOW, CorpusPositions
from retrieva_pretrain.data.corpora import Corpora, SpecialTokens
from retrieva_pretrain.data.masking import Masker, Samples
from retrieva_pretrain.data.order import CorpusStream
from retrieva_pretrain.recipe.schema import Recipe

__all__ = ["HeldOutSamples", "Provenance", "Samples", "TrainingSamples"]


@dataclass(frozen=True)
class Provenance:
    """Where a sample's tokens come from."""

    corpus: str
    documents: list[int]
    """Numbers of the documents in the corpus."""


class TrainingSamples:
    """The samples of a run, by number."""

    def __init__(self, recipe: Recipe, corpora: Corpora) -> None:
        self.recipe = recipe
        self._special = corpora.special
        self._streams = [
            CorpusStream(c.name, c.dataset, c.training_documents, recipe.seed) for c in corpora.corpora
        ]
        self.positions = CorpusPositions(
            recipe, [s.name for s in self._streams], [s.epoch_tokens for s in self._streams], corpora.blend()
        )
        self._masker = _masker(recipe, corpora, recipe.seed)

    def step(self, step: int) -> NDArray[np.int64]:
        """Return the numbers of a step's samples, int64 [global_batch_size]."""
        size = self.recipe.global_batch_size
        return np.arange(step * size, (step + 1) * size, dtype=np.int64)

    def samples(self, numbers: NDArray[np.int64]) -> Samples:
        """Return samples by number, all of one stage.

        Returns `input_ids` and `labels`, int64 [n, seq_length], and `loss_mask`, float32 [n, seq_length].
        """
        corpus, offsets, payload = self._locate(numbers)
        tokens = np.empty((len(numbers), payload), dtype=np.int64)
        for index, stream in enumerate(self._streams):
            rows = np.flatnonzero(corpus == index)
            if rows.size:
                tokens[rows] = stream.read(offsets[rows], payload)
        return self._masker.mask(_with_special_tokens(tokens, self._special), numbers)

    def micro_batches(
        self, step: int, data_parallel_rank: int, data_parallel_size: int, micro_batch_size: int
    ) -> Iterator[tuple[NDArray[np.int64], Samples]]:
        """Yield one process's micro-batches of a step: their sample numbers and the samples.

        Process r of n takes the r-th of n contiguous slices of the step's samples.
        """
        share = self.recipe.global_batch_size // data_parallel_size
        numbers = self.step(step)[data_parallel_rank * share : (data_parallel_rank + 1) * share]
        for start in range(0, share, micro_batch_size):
            chosen = numbers[start : start + micro_batch_size]
            yield chosen, self.samples(chosen)

    def provenance(self, number: int) -> Provenance:
        """Return the corpus and the documents of one sample."""
        corpus, offsets, payload = self._locate(np.array([number], dtype=np.int64))
        stream = self._streams[int(corpus[0])]
        return Provenance(stream.name, stream.documents_of(int(offsets[0]), payload))

    def _locate(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
        """Return each sample's corpus and stream offset, and the tokens of one window."""
        curriculum = self.positions.curriculum
        here = curriculum.at(int(numbers[0]) // self.recipe.global_batch_size)
        if curriculum.at(int(numbers[-1]) // self.recipe.global_batch_size).index != here.index:
            raise ValueError("samples of two stages have two lengths; ask for them one stage at a time")
        blend = self.positions.blend
        corpus, before = blend.corpus_of(numbers)
        at_stage_start = blend.counts(curriculum.consumed_samples(here.start_step))
        ordinals = before - at_stage_start[corpus]
        offsets = np.empty_like(ordinals)
        for index in np.unique(corpus).tolist():
            rows = corpus == index
            offsets[rows] = self.positions.stream_offsets(here.index, index, ordinals[rows])
        return corpus, offsets, here.seq_length - SPECIAL_TOKENS_PER_WINDOW


class HeldOutSamples:
    """Fixed samples of each corpus's held-out documents, masked the same way for every seed."""

    def __init__(self, recipe: Recipe, corpora: Corpora) -> None:
        self._most = recipe.evaluation.samples_per_corpus
        self._special = corpora.special
        streams = {corpus.name: corpus.held_out() for corpus in corpora.corpora}
        self._streams = {name: stream for name, stream in streams.items() if stream.size}
        self._masker = _masker(recipe, corpora, key_of("held-out masks"))

    def corpora(self) -> list[str]:
        """Return the names of the corpora that have held-out text, in the blend's order."""
        return list(self._streams)

    def samples(self, corpus: str, seq_length: int) -> Samples:
        """Return a corpus's held-out samples at one length; shapes as `TrainingSamples.samples` gives them.

        Whole windows from the start of its held-out text; a text shorter than one window is repeated.
        """
        stream = self._streams[corpus]
        payload = seq_length - SPECIAL_TOKENS_PER_WINDOW
        count = min(max(stream.size // payload, 1), self._most)
        text = np.empty(min(stream.size, count * payload), dtype=np.int64)
        stream.read_into(text, 0)
        tokens = np.resize(text, (count, payload))
        return self._masker.mask(
            _with_special_tokens(tokens, self._special), np.arange(count, dtype=np.int64)
        )


def _masker(recipe: Recipe, corpora: Corpora, seed: int) -> Masker:
    ends = {c.manifest.eod.id for c in corpora.corpora if c.manifest.eod is not None}
    return Masker(
        corpora.tokenizer.vocab_size,
        corpora.special.never_text | ends,
        corpora.special.mask,
        recipe.objective.masking_probability,
        seed,
    )


def _with_special_tokens(tokens: NDArray[np.int64], special: SpecialTokens) -> NDArray[np.int64]:
    """[n, s - 2] -> [n, s]."""
    edges = np.ones((len(tokens), 1), dtype=np.int64)
    return np.concatenate([special.cls * edges, tokens, special.sep * edges], axis=1)
