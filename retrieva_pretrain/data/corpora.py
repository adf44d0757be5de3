"""The corpora of a recipe, opened and found to fit it, or refused in the user's words."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.errors import DataPrepError
from data_prep.indexed import IndexedDataset
from data_prep.manifest import Manifest
from data_prep.tokenizer import (
    CLS_SPELLINGS,
    MASK_SPELLINGS,
    PAD_SPELLINGS,
    SEP_SPELLINGS,
    Tokenizer,
)
from retrieva_pretrain.curriculum.blend import Blend
from retrieva_pretrain.data.order import DocumentStream, is_held_out
from retrieva_pretrain.errors import CorpusError
from retrieva_pretrain.recipe.schema import Recipe


@dataclass(frozen=True)
class SpecialTokens:
    """The ids of the pieces that a sample is built with, and of all that are never text."""

    mask: int
    cls: int
    sep: int
    pad: int
    never_text: frozenset[int]

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> SpecialTokens:
        """Look the pieces up by name: other releases of a tokenizer give them other ids and spellings."""
        mask, start, end, pad = (
            tokenizer.find_piece(*spellings)
            for spellings in (MASK_SPELLINGS, CLS_SPELLINGS, SEP_SPELLINGS, PAD_SPELLINGS)
        )
        return cls(mask, start, end, pad, frozenset({*tokenizer.special_ids, mask, start, end, pad}))


@dataclass(frozen=True)
class Corpus:
    """One corpus of the blend."""

    path: str
    manifest: Manifest
    dataset: IndexedDataset
    held_out_fraction: float

    @property
    def name(self) -> str:
        """The corpus's own name, which keys its order and its held-out documents."""
        return self.manifest.name

    @cached_property
    def training_documents(self) -> NDArray[np.int64]:
        """Numbers of the documents that are trained on, ascending."""
        return np.flatnonzero(~self._held_out)

    @cached_property
    def training_tokens(self) -> int:
        """Tokens of one epoch."""
        return int(self.dataset.document_lengths()[self.training_documents].sum())

    def held_out(self) -> DocumentStream:
        """Return the held-out documents in the order of the corpus."""
        return DocumentStream(self.dataset, np.flatnonzero(self._held_out))

    @cached_property
    def _held_out(self) -> NDArray[np.bool_]:
        return is_held_out(self.name, self.dataset.num_documents, self.held_out_fraction)


@dataclass(frozen=True)
class Corpora:
    """All corpora of a recipe with the tokenizer that made them."""

    tokenizer: Tokenizer
    special: SpecialTokens
    corpora: tuple[Corpus, ...]
    weights: tuple[float, ...]

    @classmethod
    def open(cls, recipe: Recipe) -> Corpora:
        """Open the corpora of a recipe.

        Sizes are checked here; `retrieva data verify` recomputes every checksum.

        Raises:
            CorpusError: a corpus is missing, incomplete, damaged, or was made with another tokenizer.
        """
        try:
            tokenizer = Tokenizer(Path(recipe.tokenizer.model))
            special = SpecialTokens.of(tokenizer)
        except DataPrepError as error:
            raise CorpusError(f"tokenizer.model: {error}") from None
        corpora = tuple(
            _open_corpus(f"data.blend.{number}.path", entry.path, tokenizer, recipe.data.held_out_fraction)
            for number, entry in enumerate(recipe.data.blend)
        )
        _refuse_same_name(corpora)
        weights = tuple(
            float(entry.weight if entry.weight is not None else corpus.training_tokens)
            for entry, corpus in zip(recipe.data.blend, corpora, strict=True)
        )
        return cls(tokenizer, special, corpora, weights)

    @property
    def fingerprints(self) -> dict[str, str]:
        """What each corpus holds, by its path in the recipe."""
        return {corpus.path: corpus.manifest.fingerprint for corpus in self.corpora}

    def blend(self) -> Blend:
        """Return the mixture of the corpora."""
        return Blend(self.weights)


def _open_corpus(field: str, path: str, tokenizer: Tokenizer, held_out_fraction: float) -> Corpus:
    prefix = Path(path)
    try:
        if not any(
            prefix.with_name(prefix.name + end).exists() for end in (".bin", ".idx", ".manifest.json")
        ):
            raise CorpusError(
                f"{field}: there is no corpus {path} (looked for {path}.bin, .idx and .manifest.json). Paths start"
                " at the working directory; `retrieva data build` makes a corpus."
            )
        manifest = Manifest.load(prefix)
        dataset = IndexedDataset(prefix)
    except DataPrepError as error:
        raise CorpusError(f"{field}: {error}") from None
    for ending, output in (("bin", manifest.outputs.bin), ("idx", manifest.outputs.idx)):
        file = prefix.with_name(f"{prefix.name}.{ending}")
        if file.stat().st_size != output.bytes:
            raise CorpusError(
                f"{field}: {file} has {file.stat().st_size} bytes and its manifest says {output.bytes}; the file is"
                " damaged or from another build. Build the corpus again."
            )
    if manifest.tokenizer.sha256 != tokenizer.sha256:
        raise CorpusError(
            f"{field}: {path} was made with the tokenizer {manifest.tokenizer.model}"
            f" (sha256 {manifest.tokenizer.sha256[:12]}...), and tokenizer.model is {tokenizer.path}"
            f" ({tokenizer.sha256[:12]}...). Name the corpus's own tokenizer, or build the corpus again."
        )
    corpus = Corpus(path, manifest, dataset, held_out_fraction)
    try:
        tokens = corpus.training_tokens
    except DataPrepError as error:
        raise CorpusError(f"{field}: {error}") from None
    if tokens == 0:
        raise CorpusError(
            f"{field}: {path} has no documents to train on. Build it from files that have text."
        )
    return corpus


def _refuse_same_name(corpora: tuple[Corpus, ...]) -> None:
    """Two corpora of one name would be shuffled alike and mixed up in every report."""
    seen: dict[str, str] = {}
    for corpus in corpora:
        if corpus.name in seen:
            raise CorpusError(
                f"data.blend: {seen[corpus.name]} and {corpus.path} are both named {corpus.name!r}."
                " Build one of them under another name."
            )
        seen[corpus.name] = corpus.path
