"""Corpus configurations over small files."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from data_prep.corpus import CorpusConfig, TokenizerConfig
from data_prep.tokenizer import Tokenizer

Configure = Callable[..., CorpusConfig]
WriteJsonl = Callable[..., Path]


@pytest.fixture
def configure(small_tokenizer: Tokenizer) -> Configure:
    """Makes the configuration of a corpus named `corpus` over the files given, with the small tokenizer."""

    def configure(*files: Path | str, source: str = "jsonl", **fields: Any) -> CorpusConfig:
        fields.setdefault("tokenizer", TokenizerConfig(model=str(small_tokenizer.path)))
        fields.setdefault("name", "corpus")
        return CorpusConfig(source=source, files=[str(file) for file in files], **fields)

    return configure


@pytest.fixture
def write_jsonl() -> WriteJsonl:
    """Writes rows (texts, or whole objects) as JSON lines, compressed when the name ends in `.gz`."""

    def write_jsonl(path: Path, rows: Iterable[str | dict[str, Any]]) -> Path:
        objects = ({"text": row} if isinstance(row, str) else row for row in rows)
        data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in objects).encode()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
        return path

    return write_jsonl
