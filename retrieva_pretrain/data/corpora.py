"""The corpora of a recipe, opened and found to fit it, or refused in the user's words."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from data_prep.errors import DataPrepError
from data_prep.indexed import IndexedDataset, bin_path, idx_path
from data_prep.manifest import Manifest, corpus_files
from data_prep.tokenizer import (
    CLS_SPELLINGS,
    MASK_SPELLINGS,
    PAD_SPELLINGS,
    SEP_SPELLINGS,
    Tokenizer,
)
from retrieva_pretrain.curriculum.blend import Blend, blend_weights
from retrieva_pretrain.curriculum.window import SPECIAL_TOKENS_PER_WINDOW, special_tokens_per_window
from retrieva_pretrain.data.held_out import HeldOut
from retrieva_pretrain.data.order import CorpusStream, DocumentStream
from retrieva_pretrain.data.training_documents import TrainingDocuments, document_ends, index_is_consistent
from retrieva_pretrain.errors import CorpusError
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.recipe.sections import DataConfig

# All would read the whole .bin, page by page, on every process.
_ENDS_LOOKED_AT = 256


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
    training: TrainingDocuments

    @property
    def name(self) -> str:
        """The corpus's own name, which keys its order and its held-out documents."""
        return self.manifest.name

    @property
    def dataset(self) -> IndexedDataset:
        """The documents."""
        return self.training.dataset

    @property
    def training_tokens(self) -> int:
        """Tokens of one epoch.

        Raises:
            CorpusError: there is no text to train on.
        """
        tokens = self.training.tokens
        if tokens <= self.training.documents * self.manifest.pieces_per_document:
            raise CorpusError(f"{self.path} has no text to train on. Build it from files that have some.")
        return tokens

    @property
    def documents_end_where_indexed(self) -> bool:
        """Whether documents, 256 of them in a large corpus, lie and end where the index says.

        An index of another build can have the right size. The rest of the index is looked at when its documents
        are counted; `retrieva data verify` compares everything.
        """
        count, end = self.dataset.num_documents, self.manifest.eod
        chosen = np.unique(np.linspace(0, max(count - 1, 0), min(count, _ENDS_LOOKED_AT)).astype(np.int64))
        # Every place looked at may bring megabytes of the file into memory.
        with self.dataset.index_read_here_and_there():
            for some in np.array_split(chosen, 16):
                if not index_is_consistent(self.dataset, some):
                    return False
                self.dataset.let_go_of_index()
        if not self.manifest.append_eod or end is None:
            return True
        chosen = chosen[np.asarray(self.dataset.sequence_lengths)[chosen] > 0]
        return bool((self.dataset.tokens[document_ends(self.dataset, chosen) - 1] == end.id).all())

    def training_stream(self, seed: int) -> CorpusStream:
        """Return the endless stream of the documents that are trained on, in the orders of a seed."""
        return CorpusStream(self.name, self.training_tokens, partial(self.training.order, seed))

    def held_out_stream(self, most_tokens: int | None = None) -> DocumentStream:
        """Return the held-out documents in the order of the corpus; no more than hold `most_tokens`."""
        found, tokens = [np.zeros(0, dtype=np.int64)], 0
        for numbers in self.training.held_out.numbers():
            found.append(numbers)
            tokens += int(self.dataset.sequence_lengths[numbers].sum(dtype=np.int64))
            if most_tokens is not None and tokens >= most_tokens:
                break
        return DocumentStream(self.dataset, np.concatenate(found))


@dataclass(frozen=True)
class Corpora:
    """All corpora of a recipe with the tokenizer that made them."""

    tokenizer: Tokenizer
    special: SpecialTokens
    corpora: tuple[Corpus, ...]
    given_weights: tuple[float | None, ...]
    """The recipe's weights or token budgets; None where the shares follow the tokens."""

    special_tokens: int = SPECIAL_TOKENS_PER_WINDOW
    """Tokens of a window that come from no corpus; see `curriculum/window.py`."""

    @classmethod
    def open(cls, recipe: Recipe) -> Corpora:
        """Open the corpora of a recipe.

        Nothing here takes longer for a larger corpus: sizes are checked, and a sample of the documents.
        `retrieva data verify` recomputes every checksum.

        Raises:
            CorpusError: a corpus is missing, incomplete, damaged, or was made with another tokenizer; or the
                corpora do not mark documents as the recipe needs it.
        """
        try:
            tokenizer = Tokenizer(Path(recipe.tokenizer.model))
            special = SpecialTokens.of(tokenizer)
        except DataPrepError as error:
            raise CorpusError(f"tokenizer.model: {error}") from None
        corpora = tuple(
            _open_corpus(f"data.blend.{number}.path", entry.path, tokenizer, recipe.data)
            for number, entry in enumerate(recipe.data.blend)
        )
        _refuse_same_name(corpora)
        special_tokens = special_tokens_per_window(recipe, [corpus.manifest for corpus in corpora])
        _refuse_ends_that_text_holds(recipe, corpora, tokenizer)
        given = tuple(blend_weights(recipe.data.blend, [None] * len(corpora)))
        return cls(tokenizer, special, corpora, given, special_tokens)

    @property
    def weights(self) -> tuple[float, ...]:
        """The corpora's shares of the samples, in any unit."""
        return tuple(
            float(corpus.training_tokens if weight is None else weight)
            for weight, corpus in zip(self.given_weights, self.corpora, strict=True)
        )

    @property
    def fingerprints(self) -> dict[str, str]:
        """What each corpus is called and holds, by its path in the recipe.

        The name counts: it decides the order and the held-out documents.
        """
        return {corpus.path: f"{corpus.name} {corpus.manifest.fingerprint}" for corpus in self.corpora}

    @property
    def document_ends(self) -> frozenset[int]:
        """The ids that end documents."""
        return frozenset(c.manifest.eod.id for c in self.corpora if c.manifest.eod is not None)

    @property
    def document_starts(self) -> frozenset[int]:
        """The ids that documents begin with, where corpora were built so."""
        return frozenset(c.manifest.bos.id for c in self.corpora if c.manifest.bos is not None)

    def blend(self) -> Blend:
        """Return the mixture of the corpora."""
        return Blend(self.weights)


def _open_corpus(field: str, path: str, tokenizer: Tokenizer, data: DataConfig) -> Corpus:
    """Open one corpus; every refusal names the field of the recipe."""
    try:
        prefix = _existing_prefix(path)
        manifest = Manifest.load(prefix)
        dataset = IndexedDataset(prefix)
        dataset.expect_random_reads()
        _refuse_other_sizes(prefix, manifest)
        _refuse_other_tokenizer(path, manifest, tokenizer)
        held_out = HeldOut(manifest.name, dataset.num_documents, data.held_out_fraction)
        folder = prefix.parent if data.index_dir is None else Path(data.index_dir)
        training = TrainingDocuments(manifest.name, manifest.fingerprint, dataset, held_out, folder)
        corpus = Corpus(path, manifest, training)
        _refuse_other_index(prefix, corpus)
        if not training.kept_in_files:
            # At once, so that a corpus without text is refused here.
            _ = corpus.training_tokens
    except (DataPrepError, CorpusError) as error:
        raise CorpusError(f"{field}: {error}") from None
    return corpus


def _existing_prefix(path: str) -> Path:
    prefix = Path(path)
    if not any(file.exists() for file in corpus_files(prefix)):
        raise CorpusError(
            f"there is no corpus {path} (looked for {path}.bin, .idx and .manifest.json)."
            " Paths start at the working directory; `retrieva data build` makes a corpus."
        )
    return prefix


def _refuse_other_sizes(prefix: Path, manifest: Manifest) -> None:
    for file, output in (
        (bin_path(prefix), manifest.outputs.bin),
        (idx_path(prefix), manifest.outputs.idx),
    ):
        size = file.stat().st_size
        if size != output.bytes:
            raise CorpusError(
                f"{file} has {size:,} bytes and its manifest says {output.bytes:,}; the file is damaged or from"
                " another build. Build the corpus again."
            )


def _refuse_other_index(prefix: Path, corpus: Corpus) -> None:
    written, indexed = corpus.manifest.dtype, corpus.dataset.dtype.name
    if written != indexed:
        fault = f"it says the ids are {indexed}, the manifest says {written}"
    elif not corpus.documents_end_where_indexed:
        fault = "documents do not end where it says"
    else:
        return
    raise CorpusError(
        f"{idx_path(prefix)} does not match {bin_path(prefix).name}: {fault}. One of the two is damaged or from"
        f" another build; `retrieva data verify {corpus.path}` compares all of them. Build the corpus again."
    )


def _refuse_other_tokenizer(path: str, manifest: Manifest, tokenizer: Tokenizer) -> None:
    if manifest.tokenizer.sha256 != tokenizer.sha256:
        raise CorpusError(
            f"{path} was made with the tokenizer {manifest.tokenizer.model}"
            f" (sha256 {manifest.tokenizer.sha256[:12]}...), and tokenizer.model is {tokenizer.path}"
            f" ({tokenizer.sha256[:12]}...). Name the corpus's own tokenizer, or build the corpus again."
        )


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


def _refuse_ends_that_text_holds(recipe: Recipe, corpora: tuple[Corpus, ...], tokenizer: Tokenizer) -> None:
    """Documents are told apart by their end token, which only a control piece makes certain."""
    wanted = [name for name in ("reset_attention_mask", "reset_position_ids") if getattr(recipe.data, name)]
    for corpus in corpora if wanted else ():
        end = corpus.manifest.eod
        if end is not None and end.id not in tokenizer.special_ids:
            raise CorpusError(
                f"data.{wanted[0]}: {corpus.path} ends its documents with {end.piece!r}, which the text itself can"
                f" hold: it is no control piece of {tokenizer.path}. Build the corpus with another eod, or leave"
                f" {wanted[0]} false."
            )
