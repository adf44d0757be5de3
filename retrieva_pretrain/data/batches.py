"""Samples by their number in the run, and the share of a step that each process takes.

A sample is `<CLS>`, `seq_length - 2` tokens of one corpus's stream, `<SEP>`. Documents inside it are separated
by the end token that the corpus carries. Where the corpora carry `<CLS>` and `<SEP>` round every document, a
sample is `seq_length` tokens of the stream and nothing else. Sample numbers count from the first step of the
run; step N takes the `global_batch_size` numbers from `N * global_batch_size` on, whatever the number of
processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from retrieva_pretrain.curriculum.hashing import key_of
from retrieva_pretrain.curriculum.position import CorpusPositions
from retrieva_pretrain.data.corpora import Corpora
from retrieva_pretrain.data.masking import Masker, Replacements, Samples, SpanLengths
from retrieva_pretrain.data.order import Integers
from retrieva_pretrain.data.segments import position_ids, segment_ids
from retrieva_pretrain.data.words import Words
from retrieva_pretrain.errors import CorpusError
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
        self._paths = [corpus.path for corpus in corpora.corpora]
        self._streams = [corpus.training_stream(recipe.seed) for corpus in corpora.corpora]
        self.positions = CorpusPositions(
            recipe,
            [s.name for s in self._streams],
            [s.epoch_tokens for s in self._streams],
            corpora.blend(),
            corpora.special_tokens,
        )
        self._finish = _Finish(recipe, corpora)
        self._maskers = _maskers_of_stages(recipe, corpora)

    def step(self, step: int) -> Integers:
        """Return the numbers of a step's samples, int64 [global_batch_size]."""
        size = self.recipe.global_batch_size
        return np.arange(step * size, (step + 1) * size, dtype=np.int64)

    def samples(self, numbers: Integers) -> Samples:
        """Return samples by number, all of one stage.

        Returns `input_ids` and `labels`, int64 [n, seq_length], and `loss_mask`, float32 [n, seq_length]; with
        `data.reset_attention_mask` also `segment_ids`, with `data.reset_position_ids` also `position_ids`, int64
        [n, seq_length] (see `data/segments.py`).
        """
        return self._build(numbers, *self._locate(numbers))

    def micro_batches(
        self, step: int, data_parallel_rank: int, data_parallel_size: int, micro_batch_size: int
    ) -> Iterator[tuple[Integers, Samples]]:
        """Yield one process's micro-batches of a step: their sample numbers and the samples.

        Process r of n takes the r-th of n contiguous slices of the step's samples.
        """
        if self.recipe.global_batch_size % data_parallel_size or data_parallel_rank not in range(
            data_parallel_size
        ):
            raise ValueError(
                f"rank {data_parallel_rank} of {data_parallel_size}: {self.recipe.global_batch_size} samples"
                " cannot be divided so"
            )
        share = self.recipe.global_batch_size // data_parallel_size
        numbers = self.step(step)[data_parallel_rank * share : (data_parallel_rank + 1) * share]
        corpus, offsets, stage = self._locate(numbers)
        for start in range(0, share, micro_batch_size):
            part = slice(start, start + micro_batch_size)
            yield numbers[part], self._build(numbers[part], corpus[part], offsets[part], stage)

    def provenance(self, number: int) -> Provenance:
        """Return the corpus and the documents of one sample."""
        corpus, offsets, stage = self._locate(np.array([number], dtype=np.int64))
        stream = self._streams[int(corpus[0])]
        return Provenance(stream.name, stream.documents_of(int(offsets[0]), self._payload(stage)))

    def _payload(self, stage: int) -> int:
        """Return the stream tokens of one window."""
        return self.recipe.curriculum[stage].seq_length - self.positions.special_tokens

    def _locate(self, numbers: Integers) -> tuple[Integers, Integers, int]:
        """Return each sample's corpus and stream offset, and the number of their stage."""
        curriculum = self.positions.curriculum
        first, last = (int(n) // self.recipe.global_batch_size for n in (numbers.min(), numbers.max()))
        here = curriculum.at(first)
        if curriculum.at(last).index != here.index:
            raise ValueError("samples of two stages have two lengths; ask for them one stage at a time")
        blend = self.positions.blend
        corpus, before = blend.corpus_of(numbers)
        at_stage_start = blend.counts(curriculum.consumed_samples(here.start_step))
        ordinals = before - at_stage_start[corpus]
        offsets = np.empty_like(ordinals)
        for index in np.unique(corpus).tolist():
            rows = corpus == index
            offsets[rows] = self.positions.stream_offsets(here.index, index, ordinals[rows])
        return corpus, offsets, here.index

    def _build(self, numbers: Integers, corpus: Integers, offsets: Integers, stage: int) -> Samples:
        """Read and mask the windows at these offsets of their corpora's streams."""
        payload = self._payload(stage)
        tokens = np.empty((len(numbers), payload), dtype=np.int64)
        for index, stream in enumerate(self._streams):
            rows = np.flatnonzero(corpus == index)
            if rows.size:
                tokens[rows] = stream.read(offsets[rows], payload)
                self._finish.refuse_unknown_pieces(tokens[rows], self._paths[index])
        return self._finish.samples(tokens, numbers, self._maskers[stage])


class HeldOutSamples:
    """Fixed samples of each corpus's held-out documents, masked the same way for every seed and objective.

    Single tokens are masked at `evaluation.masking_probability` with BERT's replacements, whatever the training
    does: a model trained on 30 % or on spans is scored on the very text and masks of one that was not.
    """

    def __init__(self, recipe: Recipe, corpora: Corpora) -> None:
        self._most = recipe.evaluation.samples_per_corpus
        # Enough for the longest samples; the rest of a large corpus need not be looked at.
        tokens = self._most * max(stage.seq_length for stage in recipe.curriculum)
        streams = {c.name: (c.path, c.held_out_stream(tokens)) for c in corpora.corpora}
        self._streams = {name: (path, stream) for name, (path, stream) in streams.items() if stream.size}
        self._finish = _Finish(recipe, corpora)
        self._masker = _masker(corpora, recipe.evaluation.masking_probability, key_of("held-out masks"))

    def corpora(self) -> list[str]:
        """Return the names of the corpora that have held-out text, in the blend's order."""
        return list(self._streams)

    def samples(self, corpus: str, seq_length: int) -> Samples:
        """Return a corpus's held-out samples at one length; shapes as `TrainingSamples.samples` gives them.

        Whole windows from the start of its held-out text; a text shorter than one window is repeated.
        """
        path, stream = self._streams[corpus]
        payload = seq_length - self._finish.special_tokens
        count = min(max(stream.size // payload, 1), self._most)
        text = stream.read(count * payload)
        tokens = np.resize(text.astype(np.int64), (count, payload))
        self._finish.refuse_unknown_pieces(tokens, path)
        return self._finish.samples(tokens, np.arange(count, dtype=np.int64), self._masker)


class _Finish:
    """Makes samples of windows of text."""

    def __init__(self, recipe: Recipe, corpora: Corpora) -> None:
        self.special_tokens = corpora.special_tokens
        self._special = corpora.special
        self._vocab_size = corpora.tokenizer.vocab_size
        self._ends = corpora.document_ends
        self._data = recipe.data

    def samples(self, tokens: Integers, numbers: Integers, masker: Masker) -> Samples:
        """Put `<CLS>` and `<SEP>` round windows that need them, [n, payload] -> [n, s], and mask them."""
        windows = tokens
        if self.special_tokens:
            windows = np.empty((len(tokens), tokens.shape[1] + self.special_tokens), dtype=np.int64)
            windows[:, 0] = self._special.cls
            windows[:, 1:-1] = tokens
            windows[:, -1] = self._special.sep
        samples = masker.mask(windows, numbers)
        if self._data.reset_attention_mask or self._data.reset_position_ids:
            segments = segment_ids(windows, self._ends, window_tokens=bool(self.special_tokens))
            if self._data.reset_attention_mask:
                samples["segment_ids"] = segments
            if self._data.reset_position_ids:
                samples["position_ids"] = position_ids(segments)
        return samples

    def refuse_unknown_pieces(self, tokens: Integers, path: str) -> None:
        """Raise CorpusError for an id outside the tokenizer's vocabulary: damage that sizes do not show."""
        if tokens.min() < 0 or tokens.max() >= self._vocab_size:
            raise CorpusError(
                f"{path}.bin holds token ids outside the tokenizer's {self._vocab_size:,} pieces: the file is"
                f" damaged. `retrieva data verify {path}` looks at all of it; build the corpus again."
            )


def _maskers_of_stages(recipe: Recipe, corpora: Corpora) -> list[Masker]:
    """Return each stage's masker; stages of one rate share it."""
    objective = recipe.objective
    words = Words(corpora.tokenizer) if objective.masking_unit != "token" else None
    spans = SpanLengths(*objective.span_lengths) if objective.masking_unit == "span" else None
    replacements = Replacements(objective.mask_replace_prob, objective.random_replace_prob)
    rates = [recipe.masking_probability(stage) for stage in range(len(recipe.curriculum))]
    maskers = {
        rate: _masker(corpora, rate, recipe.seed, words=words, spans=spans, replacements=replacements)
        for rate in set(rates)
    }
    return [maskers[rate] for rate in rates]


def _masker(corpora: Corpora, rate: float, seed: int, **choices: Any) -> Masker:
    never_text = corpora.special.never_text | corpora.document_ends | corpora.document_starts
    return Masker(corpora.tokenizer.vocab_size, never_text, corpora.special.mask, rate, seed, **choices)
