"""What every command has in common: one message, an exit code, and no traceback that was not asked for."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.command import retrieva
from tests.conftest import REPOSITORY

SMALL = REPOSITORY / "recipes" / "demo.yaml"


def run(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return retrieva(*words, code=None, **options)


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_an_output_that_cannot_be_written_ends_in_one_message(form: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = run("plan", str(SMALL), *form, stdout=full)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "No space left on device" in done.stderr


def test_debug_shows_the_traceback_wherever_it_stands() -> None:
    assert "Traceback" not in run("plan", "no.yaml").stderr
    for arguments in (("--debug", "plan", "no.yaml"), ("plan", "no.yaml", "--debug")):
        done = run(*arguments)
        assert done.returncode == 1
        assert "Traceback" in done.stderr


def test_a_corpus_may_be_named_by_any_of_its_files(tmp_path: Path, make_corpus: Callable[..., Path]) -> None:
    prefix = make_corpus(tmp_path, "news", [[300, 301], [302]])
    for ending in ("", ".bin", ".idx", ".manifest.json"):
        found = run("data", "verify", f"{prefix}{ending}", "--json")
        assert json.loads(found.stdout)["documents"] == 2, found.stderr


def test_a_tokenizer_is_trained_on_what_overrides_name(tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    draw = random.Random(0)
    words = ["".join(draw.choices("あいうえおかきくけこ", k=4)) for _ in range(300)]
    texts.write_text("\n".join(" ".join(draw.choices(words, k=12)) for _ in range(300)), encoding="utf-8")
    corpus = tmp_path / "corpus.yaml"
    corpus.write_text("name: x\nsource: text\nfiles: [nowhere.txt]\ntokenizer: {model: x.model}\n")
    model = tmp_path / "small.model"
    retrieva(
        *("data", "train-tokenizer", str(corpus), f"files=[{texts}]"),
        *("--output", str(model), "--vocab-size", "300"),
    )
    assert model.stat().st_size > 0
