"""A small corpus that jobs can build."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_prep.corpus import CorpusConfig, TokenizerConfig
from data_prep.tokenizer import Tokenizer


@pytest.fixture
def corpus(tmp_path: Path, small_tokenizer: Tokenizer) -> CorpusConfig:
    raw = tmp_path / "raw"
    raw.mkdir()
    for number in range(7):
        texts = [f"あいう {number} かきく {line} abc" for line in range(30 + number)]
        (raw / f"{number}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return CorpusConfig(
        name="small",
        source="jsonl",
        files=[f"{raw}/*.jsonl"],
        tokenizer=TokenizerConfig(model=str(small_tokenizer.path)),
    )
