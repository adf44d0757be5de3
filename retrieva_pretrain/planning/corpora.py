"""The corpora and the tokenizer of a recipe as far as they are on this machine, by their manifests alone.

A plan is often made where the data is not: what is missing is said, and only what contradicts is refused.
`retrieva train` opens the data itself and checks more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from data_prep.errors import DataPrepError
from data_prep.manifest import Manifest, corpus_files
from data_prep.tokenizer import Tokenizer
from retrieva_pretrain.curriculum.blend import Blend, blend_weights
from retrieva_pretrain.curriculum.position import CorpusPositions
from retrieva_pretrain.curriculum.window import special_tokens_per_window
from retrieva_pretrain.errors import CorpusError
from retrieva_pretrain.recipe.layout import padded_vocab_size
from retrieva_pretrain.recipe.schema import Recipe


@dataclass(frozen=True)
class CorpusPlan:
    """One corpus; the figures are None where it is not on this machine."""

    path: str
    weight: float | None
    """As the recipe gives it; None where it gives none."""

    budget: int | None
    """Tokens that the recipe wants read; None where it gives none."""

    share: float | None
    """Of the run's samples. Held-out documents, which are not trained on, are left in."""

    documents: int | None
    tokens: int | None
    tokens_read: int | None
    """Tokens of the corpus that the run will read, repetitions counted and a sample's own <CLS> and <SEP> not."""

    epochs: float | None
    """How many times the run reads each document. Held-out text is taken as its share of the tokens; `retrieva
    train` knows it exactly."""


@dataclass(frozen=True)
class DataPlan:
    """The data of a run."""

    corpora: tuple[CorpusPlan, ...]
    vocab_size: int | None
    """Pieces of the tokenizer; None, like the next, where neither it nor a corpus is here."""

    padded_vocab_size: int | None

    special_tokens_per_window: int
    """2, or 0 where the corpora carry <CLS> and <SEP> round every document."""

    def with_padded_vocab_size(self, padded_vocab_size: int) -> DataPlan:
        """Return it with a size that something else tells, where nothing that is here does."""
        return self if self.padded_vocab_size else replace(self, padded_vocab_size=padded_vocab_size)


def plan_data(recipe: Recipe, vocab_size: int | None = None) -> DataPlan:
    """Read what is here of a recipe's data; `vocab_size` is taken where neither the tokenizer nor a corpus is.

    Raises:
        CorpusError: a corpus is incomplete, damaged or was made with another tokenizer; or the corpora do not
            mark documents as the recipe needs it.
    """
    tokenizer = _tokenizer(recipe)
    manifests = [_manifest(number, entry.path) for number, entry in enumerate(recipe.data.blend)]
    _refuse_other_tokenizers(recipe, tokenizer, manifests)
    found = [tokenizer] if tokenizer else [m.tokenizer for m in manifests if m]
    vocab_size = found[0].vocab_size if found else vocab_size
    special_tokens = special_tokens_per_window(recipe, manifests)
    padded = None
    if vocab_size is not None:
        padded = padded_vocab_size(vocab_size, recipe.tokenizer.make_vocab_size_divisible_by)
    return DataPlan(_corpora(recipe, manifests, special_tokens), vocab_size, padded, special_tokens)


def _corpora(recipe: Recipe, manifests: list[Manifest | None], special_tokens: int) -> tuple[CorpusPlan, ...]:
    """Plan each corpus; shares are None for all where they follow tokens that are not known."""
    tokens = [manifest.counts.tokens if manifest else None for manifest in manifests]
    known = [weight for weight in blend_weights(recipe.data.blend, tokens) if weight]
    shares: list[float | None] = [None] * len(tokens)
    read: list[int | None] = [None] * len(tokens)
    if len(known) == len(tokens):
        shares = [weight / sum(known) for weight in known]
        paths = [entry.path for entry in recipe.data.blend]
        # Neither names nor sizes decide how much is read of what.
        positions = CorpusPositions(recipe, paths, [1] * len(tokens), Blend(known), special_tokens)
        read = [int(count) for count in positions.consumed(positions.curriculum.total_steps)]
    return tuple(
        CorpusPlan(
            path=entry.path,
            weight=entry.weight,
            budget=entry.tokens,
            share=share,
            documents=manifest.counts.documents if manifest else None,
            tokens=manifest.counts.tokens if manifest else None,
            tokens_read=count,
            epochs=_epochs(recipe, manifest, count),
        )
        for entry, manifest, share, count in zip(recipe.data.blend, manifests, shares, read, strict=True)
    )


def _epochs(recipe: Recipe, manifest: Manifest | None, tokens_read: int | None) -> float | None:
    if manifest is None or tokens_read is None or not manifest.counts.tokens:
        return None
    return tokens_read / (manifest.counts.tokens * (1 - recipe.data.held_out_fraction))


def _tokenizer(recipe: Recipe) -> Tokenizer | None:
    path = Path(recipe.tokenizer.model)
    if not _is_here(path, "tokenizer.model"):
        return None
    try:
        return Tokenizer(path)
    except DataPrepError as error:
        raise CorpusError(f"tokenizer.model: {error}") from None


def _manifest(number: int, path: str) -> Manifest | None:
    """Read the manifest of a corpus; None where nothing of the corpus is here."""
    prefix = Path(path)
    if not any(_is_here(file, f"data.blend.{number}.path") for file in corpus_files(prefix)):
        return None
    try:
        return Manifest.load(prefix)
    except DataPrepError as error:
        raise CorpusError(f"data.blend.{number}.path: {error}") from None


def _is_here(path: Path, field: str) -> bool:
    """Return whether there is such a path; what cannot be asked for is refused."""
    try:
        return path.exists()
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise CorpusError(f"{field}: cannot be looked for ({error.strerror}): {str(path)[:200]}") from None


def _refuse_other_tokenizers(
    recipe: Recipe, tokenizer: Tokenizer | None, manifests: list[Manifest | None]
) -> None:
    """Where the tokenizer is not here, the corpora must at least agree among themselves."""
    wanted, whose = (tokenizer.sha256, f"tokenizer.model {recipe.tokenizer.model}") if tokenizer else ("", "")
    for number, (entry, manifest) in enumerate(zip(recipe.data.blend, manifests, strict=True)):
        if manifest is None:
            continue
        if not whose:
            wanted, whose = manifest.tokenizer.sha256, f"the tokenizer of {entry.path}"
        if manifest.tokenizer.sha256 != wanted:
            raise CorpusError(
                f"data.blend.{number}.path: {entry.path} was made with {manifest.tokenizer.model} (sha256"
                f" {manifest.tokenizer.sha256[:12]}...), which is not {whose} ({wanted[:12]}...). Name the"
                " tokenizer that made the corpora, or build the corpus again."
            )
