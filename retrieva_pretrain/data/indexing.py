"""Making the index files that a run needs, before it needs them.

retrieva data index recipes/retrievabert-1.3b.yaml
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retrieva_pretrain.curriculum.position import CorpusPositions
from retrieva_pretrain.data.corpora import Corpora, Corpus
from retrieva_pretrain.data.index_file import IndexFile
from retrieva_pretrain.data.order import Watch
from retrieva_pretrain.errors import CorpusError
from retrieva_pretrain.recipe.schema import Recipe

Integers = NDArray[np.int64]

_FIRST_LINE_SECONDS = 2.0


@dataclass(frozen=True)
class Indexed:
    """One index file that is now there."""

    corpus: str
    epoch: int | None
    """The epoch whose order it holds; None for the counts of the corpus."""

    file: Path
    bytes: int
    built: bool
    """Whether it was made just now."""

    seconds: float

    def __str__(self) -> str:
        what = "tokens counted" if self.epoch is None else f"order of epoch {self.epoch}"
        done = f"indexed in {self.seconds:.1f} s" if self.built else "there already"
        return f"{self.corpus}: {what}: {done} ({self.file}, {self.bytes / 1e6:,.1f} MB)"


WatchCorpus = Callable[[str, int | None, int], None]
"""Is told what is being done, how many documents are done (None: another process does it), and of how many."""


class ProgressLines:
    """Says how far the making of an index file is, once it takes more than two seconds."""

    def __init__(self, say: Callable[[str], None], every: float) -> None:
        """Take what writes a line, and the seconds between lines."""
        self._say = say
        self._every = every
        self._label = ""
        self._started = self._last = 0.0

    def __call__(self, label: str, done: int | None, documents: int) -> None:
        """Hear of the progress; see `WatchCorpus`."""
        now = time.monotonic()
        if label != self._label:
            self._label, self._started = label, now
            self._last = now + _FIRST_LINE_SECONDS - self._every
        if now - self._last < self._every:
            return
        self._last = now
        if done is None:
            self._say(f"{label}: another process is at it; waiting")
            return
        rate = done / (now - self._started)
        self._say(
            f"{label}: {done:,} of {documents:,} documents ({rate:,.0f}/s),"
            f" {(documents - done) / rate:.0f} s left"
        )


def ensure_indexes(
    recipe: Recipe,
    corpora: Corpora,
    first_step: int = 0,
    *,
    epochs: int | None = None,
    watch: WatchCorpus | None = None,
) -> Iterator[Indexed]:
    """Make what is missing of the index files for the steps from `first_step` on; yield each when it is there.

    Small corpora need none. With `epochs`, at most so many epochs of each corpus are looked after.

    Raises:
        CorpusError: a corpus is damaged or has no text to train on, or the files cannot be written.
    """
    large = [corpus for corpus in corpora.corpora if corpus.training.kept_in_files]
    for number, corpus in enumerate(corpora.corpora):
        if corpus not in large:
            continue
        label = f"counting the tokens of {corpus.name}"
        yield _ensure(corpus, None, corpus.training.counts_file(), corpus.training.count, label, watch)
        try:
            _ = corpus.training_tokens
        except CorpusError as error:
            raise CorpusError(f"data.blend.{number}.path: {error}") from None
    if not large:
        return
    for corpus, needed in zip(corpora.corpora, epochs_from(recipe, corpora, first_step), strict=True):
        if corpus not in large:
            continue
        for epoch in list(needed)[:epochs]:

            def bounds(
                watch: Watch | None, corpus: Corpus = corpus, epoch: int = epoch
            ) -> Iterator[Integers]:
                return corpus.training.bounds(recipe.seed, epoch, watch)

            label = f"ordering {corpus.name} for epoch {epoch}"
            yield _ensure(corpus, epoch, corpus.training.order_file(recipe.seed, epoch), bounds, label, watch)


def epochs_from(recipe: Recipe, corpora: Corpora, first_step: int) -> list[range]:
    """Return the epochs of each corpus that the steps from `first_step` to the run's end read."""
    tokens = [corpus.training_tokens for corpus in corpora.corpora]
    positions = CorpusPositions(recipe, [c.name for c in corpora.corpora], tokens, corpora.blend())
    start = positions.consumed(first_step)
    end = positions.consumed(positions.curriculum.total_steps)
    return [range(int(s) // t, -(-int(e) // t)) for s, e, t in zip(start, end, tokens, strict=True)]


def _ensure(
    corpus: Corpus,
    epoch: int | None,
    file: IndexFile,
    make: Callable[[Watch | None], Iterator[Integers]],
    label: str,
    watch: WatchCorpus | None,
) -> Indexed:
    started = time.monotonic()
    documents = corpus.dataset.num_documents
    if watch is None:
        _, built = file.ensure(lambda: make(None))
    else:
        _, built = file.ensure(
            lambda: make(lambda done: watch(label, done, documents)), lambda: watch(label, None, documents)
        )
    return Indexed(corpus.name, epoch, file.path, file.size, built, time.monotonic() - started)
