"""What `retrieva data index` shows while it works, and at the end."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from retrieva_pretrain.data.corpora import Corpora
    from retrieva_pretrain.data.indexing import Indexed

_LINE_EVERY = 15.0  # seconds between lines where the error stream is no terminal
_TERMINAL_EVERY = 0.5


def index_corpora(recipe_file: Path, overrides: Sequence[str], epochs: int | None, as_json: bool) -> None:
    """Make the index files of a recipe's corpora and show each."""
    from retrieva_pretrain.data.corpora import Corpora
    from retrieva_pretrain.data.indexing import ProgressLines, ensure_indexes
    from retrieva_pretrain.recipe.loading import load_yaml
    from retrieva_pretrain.recipe.schema import Recipe

    recipe = load_yaml(Recipe, recipe_file, overrides)
    corpora = Corpora.open(recipe)
    terminal = sys.stderr.isatty()

    def say(line: str) -> None:
        # On a terminal one line is written again and again.
        typer.echo(f"\r\x1b[2K{line}" if terminal else line, err=True, nl=not terminal)

    watch = ProgressLines(say, _TERMINAL_EVERY if terminal else _LINE_EVERY)
    files = []
    for indexed in ensure_indexes(recipe, corpora, epochs=epochs, watch=watch):
        files.append(indexed)
        if terminal:
            say("")
        if not as_json:
            typer.echo(str(indexed))
    if as_json:
        typer.echo(json.dumps([_content(indexed) for indexed in files], ensure_ascii=False, indent=1))
    else:
        typer.echo(_summary(corpora, files))


def _content(indexed: Indexed) -> dict[str, object]:
    return {
        "corpus": indexed.corpus,
        "epoch": indexed.epoch,
        "file": str(indexed.file),
        "bytes": indexed.bytes,
        "built": indexed.built,
        "seconds": indexed.seconds,
    }


def _summary(corpora: Corpora, files: list[Indexed]) -> str:
    built = sum(indexed.built for indexed in files)
    small = [corpus.name for corpus in corpora.corpora if not corpus.training.kept_in_files]
    parts = [f"{built} index files made, {len(files) - built} there already"] if files else []
    if small:
        parts.append(f"{', '.join(small)}: small enough to be looked at anew at every start, no file needed")
    return "; ".join(parts)
