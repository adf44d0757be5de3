"""Fixtures shared by all tests: where the real data is, and a clear skip where it is not."""

from __future__ import annotations

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real corpora, tokenizers and JGLUE, kept beside the repository."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("the real corpora are not here: ../shared is missing beside the repository")
    return folder


@pytest.fixture(scope="session")
def llm_jp_model(shared: Path) -> Path:
    """LLM-jp's SentencePiece model ver3.0b1."""
    return shared / "tokenizers" / "llm-jp-tokenizer-100k.ver3.0b1.model"
