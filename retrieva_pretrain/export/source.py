"""What is exported: a whole checkpoint of a run, its shape, its tokenizer, and what is known of how it came about. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from data_prep.errors import DataPrepError
from data_prep.tokenizer import Tokenizer
from retrieva_pretrain.errors import CheckpointError, CorpusError
from retrieva_pretrain.recipe.layout import padded_vocab_size
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.recipe.sections import ModelConfig
from retrieva_pretrain.training.checkpoint_files import (
    DESCRIPTION,
    find_corruption,
    find_damage,
    read_description,
)
from retrieva_pretrain.training.run_folder import RunFolder

# An imported model keeps its tokenizer in its folder, for no recipe names one.
OWN_TOKENIZER = "tokenizer.model"


@dataclass(frozen=True)
class Source:
    """A checkpoint with all that its export needs."""

    run: Path
    checkpoint: Path
    step: int
    model: ModelConfig
    tokenizer: Tokenizer
    padded_vocab_size: int
    description: dict[str, Any]
    """`checkpoint.json`."""

    recipe: Recipe | None
    """The run's; None for an imported model."""


def open_source(run: Path, step: int | None, tokenizer: Path | None) -> Source:
    """Find the checkpoint of a run, read all of it once against its checksums, and open its tokenizer.

    Args:
        run: the run's folder.
        step: of the checkpoint; the newest whole one where None.
        tokenizer: the SentencePiece model, where it is no longer where the recipe says.

    Raises:
        CheckpointError: there is no such checkpoint, or it is damaged.
        CorpusError: the tokenizer is not there, or is not the run's.
    """
    checkpoint = _checkpoint(run, step)
    description = read_description(checkpoint)
    damage = find_corruption(checkpoint, description["files"])
    if damage is not None:
        raise CheckpointError(f"{checkpoint} is damaged: {damage}. Export another one: --step N.")
    identity = description["identity"]
    try:
        model = ModelConfig.model_validate(identity["model"])
        divisor, sha256 = (
            identity["tokenizer"]["make_vocab_size_divisible_by"],
            identity["tokenizer"]["model"],
        )
    except (KeyError, TypeError, ValidationError) as error:
        raise CheckpointError(
            f"{checkpoint / DESCRIPTION}: `identity` does not describe a model ({error})"
        ) from None
    recipe = load_yaml(Recipe, run / "recipe.yaml") if (run / "recipe.yaml").exists() else None
    opened = _tokenizer(run, recipe, tokenizer, sha256)
    return Source(
        run=run,
        checkpoint=checkpoint,
        step=description["step"],
        model=model,
        tokenizer=opened,
        padded_vocab_size=padded_vocab_size(opened.vocab_size, divisor),
        description=description,
        recipe=recipe,
    )


def _checkpoint(run: Path, step: int | None) -> Path:
    if (run / DESCRIPTION).exists():
        raise CheckpointError(
            f"{run} is a checkpoint; give the folder of its run, {run.parent.parent}, and --step."
        )
    if not run.is_dir():
        raise CheckpointError(f"{run}: there is no such folder; give that of a run, runs/NAME.")
    folder = RunFolder(run)
    if step is None:
        newest = folder.newest_checkpoint()
        if newest is None:
            raise CheckpointError(
                f"{folder.checkpoints}: there is no checkpoint yet; train first, or give the folder of a run."
            )
        return newest
    path = folder.checkpoint(step)
    if not path.is_dir():
        there = ", ".join(str(number) for number, _ in sorted(folder.checkpoint_folders())) or "none"
        raise CheckpointError(f"{path}: there is no checkpoint of step {step}; there are: {there}.")
    damage = find_damage(path)
    if damage is not None:
        raise CheckpointError(f"{path} is damaged: {damage}. Export another one: --step N.")
    return path


def _tokenizer(run: Path, recipe: Recipe | None, given: Path | None, sha256: str) -> Tokenizer:
    """Open the run's tokenizer, and refuse any other."""
    candidates = [given] if given is not None else [run / OWN_TOKENIZER]
    if given is None and recipe is not None:
        candidates.insert(0, Path(recipe.tokenizer.model))
    path = next((candidate for candidate in candidates if candidate.exists()), candidates[0])
    try:
        opened = Tokenizer(path)
    except DataPrepError as error:
        raise CorpusError(f"{error} If it lies elsewhere: --tokenizer FILE.") from None
    if opened.sha256 != sha256:
        raise CorpusError(
            f"{path} is not the tokenizer of this run: its sha256 is {opened.sha256}, the checkpoint was trained with"
            f" {sha256}. Name the right one: --tokenizer FILE."
        )
    return opened
