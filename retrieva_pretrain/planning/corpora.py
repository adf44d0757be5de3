"""The corpora and the tokenizer of a recipe as far as they are on this machine, by their manifests alone.

A plan is often made where the data is not: what is missing is said, and only what contradicts is refused.
`retrieva train` opens the data itself and checks more.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data_prep.errors import DataPrepError
from data_prep.manifest import Manifest, corpus_files
from data_prep.tokenizer import Tokenizer
from retrieva_pretrain.errors import CorpusError
from retrieva_pretrain.recipe.schema import Recipe


@dataclass(frozen=True)
class CorpusPlan:
    """One corpus; the figures are None where it is not on this machine."""

    path: str
    weight: float | None
    """As the recipe gives it; None where the shares follow the tokens."""

    share: float | None
    """Of the run's samples. Held-out documents, which are not trained on, are left in."""

    documents: int | None
    tokens: int | None


@dataclass(frozen=True)
class DataPlan:
    """The data of a run."""

    corpora: tuple[CorpusPlan, ...]
    vocab_size: int | None
    """Pieces of the tokenizer; None where neither it nor a corpus is here."""


def plan_data(recipe: Recipe) -> DataPlan:
    """Read what is here of a recipe's data.

    Raises:
        CorpusError: a corpus is incomplete, damaged or was made with another tokenizer.
    """
    tokenizer = _tokenizer(recipe)
    manifests = [_manifest(number, entry.path) for number, entry in enumerate(recipe.data.blend)]
    _refuse_other_tokenizers(recipe, tokenizer, manifests)
    vocab_size = tokenizer.vocab_size if tokenizer else None
    if vocab_size is None:
        vocab_size = next((m.tokenizer.vocab_size for m in manifests if m), None)
    shares = _shares(recipe, manifests)
    corpora = tuple(
        CorpusPlan(
            entry.path,
            entry.weight,
            share,
            manifest.counts.documents if manifest else None,
            manifest.counts.tokens if manifest else None,
        )
        for entry, manifest, share in zip(recipe.data.blend, manifests, shares, strict=True)
    )
    return DataPlan(corpora, vocab_size)


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


def _shares(recipe: Recipe, manifests: list[Manifest | None]) -> list[float | None]:
    """Return each corpus's share of the samples; None where it follows tokens that are not known."""
    weights = [
        entry.weight if entry.weight is not None else (manifest.counts.tokens if manifest else None)
        for entry, manifest in zip(recipe.data.blend, manifests, strict=True)
    ]
    known = [weight for weight in weights if weight is not None]
    total = sum(known)
    if len(known) < len(weights) or not total:
        return [None] * len(weights)
    return [weight / total for weight in known]
