"""What a build has written."""

from __future__ import annotations

from pathlib import Path

from data_prep.indexed import IndexedDataset
from data_prep.tokenizer import Tokenizer

TEXTS = ["あいう かきく", "abc defg abc", "えお けこ abc", "うえ、 い"]


def names(folder: Path) -> list[str]:
    """Files a user sees; `.NAME.build` is the work of a build that is not complete."""
    paths = folder.iterdir() if folder.exists() else ()
    return sorted(path.name for path in paths if not path.name.startswith("."))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def texts_of(prefix: Path, tokenizer: Tokenizer) -> list[str]:
    dataset = IndexedDataset(prefix)
    return [tokenizer.decode(dataset.document(number)) for number in range(dataset.num_documents)]
