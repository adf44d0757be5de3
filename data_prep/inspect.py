"""What is in a corpus: counts, ratios, what was dropped, and documents turned back into text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data_prep.build_page import length_histogram
from data_prep.errors import DataPrepError
from data_prep.indexed import IndexedDataset
from data_prep.manifest import Manifest
from data_prep.tokenizer import Tokenizer


@dataclass(frozen=True)
class DocumentView:
    """One document: its ids, and its text when the tokenizer of the corpus is at hand."""

    number: int
    tokens: int
    ids: list[int]
    text: str | None


@dataclass(frozen=True)
class Inspection:
    """A corpus in numbers. `length_histogram` is (tokens up to, documents); `note` says why there is no text where there is none."""

    prefix: str
    manifest: Manifest
    fingerprint: str
    bytes_per_token: float
    document_tokens: dict[str, int]
    length_histogram: list[tuple[int, int]]
    documents: list[DocumentView] = field(default_factory=list)
    note: str | None = None


def inspect(prefix: Path, documents: Sequence[int] = ()) -> Inspection:
    """The numbers of a corpus and the documents asked for (0-based; negative ones count from the end).

    Raises `DataPrepError` for a corpus that cannot be read and a document that is not there.
    """
    manifest = Manifest.load(prefix)
    dataset = IndexedDataset(prefix)
    tokenizer, note = _tokenizer(manifest) if documents else (None, None)
    counts = manifest.counts
    text_tokens = manifest.text_tokens
    return Inspection(
        prefix=str(prefix),
        manifest=manifest,
        fingerprint=manifest.fingerprint,
        bytes_per_token=counts.text_bytes / text_tokens if text_tokens else 0.0,
        document_tokens=_quantiles(dataset),
        length_histogram=length_histogram(dataset.document_lengths()),
        documents=[_view(dataset, number, tokenizer) for number in documents],
        note=note,
    )


def _view(dataset: IndexedDataset, number: int, tokenizer: Tokenizer | None) -> DocumentView:
    count = dataset.num_documents
    if not -count <= number < count:
        raise DataPrepError(f"{dataset.prefix}: no document {number}; it holds {count:,}, numbered from 0.")
    position = number % count
    ids = dataset.document(position).tolist()
    try:
        text = tokenizer.decode(ids) if tokenizer else None
    except IndexError:
        raise DataPrepError(
            f"{dataset.prefix}: document {position} holds ids outside the vocabulary; run `retrieva data verify`."
        ) from None
    return DocumentView(position, len(ids), ids, text)


def _quantiles(dataset: IndexedDataset) -> dict[str, int]:
    """Tokens of a document: least, median, 95th percentile, most."""
    lengths = dataset.document_lengths()
    if not len(lengths):
        return {}
    names = ("min", "median", "p95", "max")
    # `lower`: a length that some document really has.
    values = np.quantile(lengths, [0, 0.5, 0.95, 1], method="lower")
    return dict(zip(names, (int(value) for value in values), strict=True))


def _tokenizer(manifest: Manifest) -> tuple[Tokenizer | None, str | None]:
    """The tokenizer the corpus was made with, or why it cannot be used."""
    try:
        tokenizer = Tokenizer(manifest.tokenizer.model)
    except DataPrepError:
        return None, f"no text: the tokenizer {manifest.tokenizer.model} is not here"
    if tokenizer.sha256 != manifest.tokenizer.sha256:
        return None, f"no text: {manifest.tokenizer.model} is not the model the corpus was made with"
    return tokenizer, None
