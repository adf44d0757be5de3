"""Everything that can be refused about a run, before torch is loaded and a process group joined."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.errors import DataPrepError
from data_prep.tokenizer import Tokenizer
from retrieva_pretrain.data.corpora import Corpora
from retrieva_pretrain.errors import CorpusError
from retrieva_pretrain.optional_packages import refuse_missing_packages
from retrieva_pretrain.recipe.identity import identity
from retrieva_pretrain.recipe.layout import StageLayout, padded_vocab_size, stage_layouts
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.training.initial_weights import initial_checkpoint
from retrieva_pretrain.training.run_folder import RunFolder


@dataclass(frozen=True)
class PreparedRun:
    """A recipe that fits its corpora, its number of processes and what its folder holds."""

    recipe: Recipe
    layouts: tuple[StageLayout, ...]
    corpora: Corpora
    folder: RunFolder
    identity: dict[str, Any]
    """What every checkpoint of the run must agree on."""

    padded_vocab_size: int
    initial: Path | None = None
    """The checkpoint whose weights the run begins with; None for random ones, or where the run goes on."""


def prepare_dry_run(recipe: Recipe) -> int:
    """Check a recipe against the processes torchrun started (or one) alone; return its tokenizer's pieces.

    Raises:
        RecipeError: the recipe does not fit this number of processes, or asks for packages that are not here.
        CorpusError: the tokenizer is not there or cannot be read.
    """
    refuse_missing_packages(recipe)
    stage_layouts(recipe, int(os.environ.get("WORLD_SIZE", "1")))
    try:
        return Tokenizer(Path(recipe.tokenizer.model)).vocab_size
    except DataPrepError as error:
        raise CorpusError(f"tokenizer.model: {error}") from None


def prepare(recipe: Recipe) -> PreparedRun:
    """Check a recipe against the processes torchrun started (or one), its corpora and its run's folder.

    Nothing is written.

    Raises:
        RecipeError: the recipe does not fit this number of processes, or asks for packages that are not here.
        CorpusError: a corpus is not there, is damaged, or was made with another tokenizer.
        CheckpointError: the run's folder belongs to another recipe or holds nothing whole, or `init_from` names
            nothing that fits.
    """
    refuse_missing_packages(recipe)
    layouts = stage_layouts(recipe, int(os.environ.get("WORLD_SIZE", "1")))
    corpora = Corpora.open(recipe)
    folder = RunFolder.of(recipe)
    initial, origin = initial_checkpoint(recipe, folder, corpora.tokenizer.sha256)
    made_of = identity(recipe, corpora.fingerprints, corpora.tokenizer.sha256, origin)
    folder.refuse_other_recipe(made_of)
    padded = padded_vocab_size(corpora.tokenizer.vocab_size, recipe.tokenizer.make_vocab_size_divisible_by)
    return PreparedRun(recipe, layouts, corpora, folder, made_of, padded, initial)
