"""Arguments that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RecipeFile = Annotated[Path, typer.Argument(help="The recipe (YAML).", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="key.path=value: changes to single fields of the file.", metavar="[KEY=VALUE]..."),
]

TokenizerFile = Annotated[
    Path | None,
    typer.Option(
        "--tokenizer", help="The SentencePiece model, where it is not found by itself.", show_default=False
    ),
]
