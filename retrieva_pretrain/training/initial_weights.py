"""`init_from`: the checkpoint whose weights a new run begins with. No torch.

What it is belongs to the run's identity: the step, the checksum of its description (which lists the checksums of
its files) and a digest of the recipe behind it. Where it lies does not, so it may be moved, and removed once the
run has a checkpoint of its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import xxhash

from data_prep.whole_files import sha256_file
from retrieva_pretrain.errors import CheckpointError
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.training.checkpoint_files import (
    DESCRIPTION,
    DamagedCheckpointError,
    find_damage,
    read_description,
)
from retrieva_pretrain.training.run_folder import RunFolder

# What of `model` decides the tensors. Positions too: longer ones would have to be invented.
_SHAPE = (
    "num_layers",
    "hidden_size",
    "ffn_hidden_size",
    "num_attention_heads",
    "num_query_groups",
    "max_position_embeddings",
    "share_embeddings_and_output_weights",
)


def initial_checkpoint(
    recipe: Recipe, folder: RunFolder, tokenizer_sha256: str
) -> tuple[Path | None, dict[str, Any] | None]:
    """Return the checkpoint of `init_from` where it is needed, and what it is.

    A run that has a checkpoint of its own needs none, and keeps the record of what it began with; one that was
    killed before its first checkpoint begins with the same one again.

    Raises:
        CheckpointError: there is no such checkpoint, none of it is whole, or its model is another.
    """
    if recipe.init_from is None:
        return None, None
    recorded = (folder.recorded_identity() or {}).get("init_from")
    is_needed = folder.newest_checkpoint() is None
    candidates = _candidates(Path(recipe.init_from), is_needed=is_needed)
    chosen = next((path for path in candidates if _what(path) == recorded), None)
    if chosen is None and not is_needed:
        names_run = not (Path(recipe.init_from) / DESCRIPTION).exists()
        if not candidates or (names_run and _is_of_run(candidates[0], recorded)):
            return None, recorded  # moved, removed, or only followed by later ones of the same run
    if chosen is None:
        chosen = candidates[0]
    _refuse_other_model(recipe, chosen, tokenizer_sha256)
    return chosen if is_needed else None, _what(chosen)


def _candidates(path: Path, *, is_needed: bool) -> list[Path]:
    """Return the checkpoints that a path may stand for, the first choice first."""
    if (path / DESCRIPTION).exists():
        damage = find_damage(path)
        if damage is None:
            return [path]
        if is_needed:
            raise CheckpointError(f"init_from: {path} is damaged: {damage}; take another checkpoint")
        return []
    found = RunFolder(path).checkpoints_by_age()
    whole = [checkpoint for checkpoint, damage in found if damage is None]
    if not whole and is_needed:
        raise CheckpointError(
            f"init_from: {path} is neither a checkpoint's folder (with {DESCRIPTION}) nor that of a run with a whole"
            " checkpoint; give runs/NAME or runs/NAME/checkpoints/step_N"
            + "".join(f"\n  {checkpoint.name}: {damage}" for checkpoint, damage in found)
        )
    return whole


def _what(checkpoint: Path) -> dict[str, Any] | None:
    """Return what a checkpoint is, wherever it lies."""
    try:
        description = read_description(checkpoint)
    except DamagedCheckpointError:
        return None
    identity = json.dumps(description["identity"], sort_keys=True).encode("ascii")
    return {
        "step": description["step"],
        "checkpoint": sha256_file(checkpoint / DESCRIPTION),
        "run": xxhash.xxh3_128_hexdigest(identity),
    }


def _is_of_run(checkpoint: Path, recorded: dict[str, Any] | None) -> bool:
    what = _what(checkpoint)
    return recorded is not None and what is not None and what["run"] == recorded["run"]


def _refuse_other_model(recipe: Recipe, checkpoint: Path, tokenizer_sha256: str) -> None:
    there = read_description(checkpoint)["identity"]
    mine = recipe.model_dump(mode="json")
    pairs = [(f"model.{field}", there["model"].get(field), mine["model"][field]) for field in _SHAPE]
    tokenizer = there["tokenizer"]
    pairs.append(("tokenizer.model (sha256)", tokenizer.get("model"), tokenizer_sha256))
    divisor = "make_vocab_size_divisible_by"
    pairs.append((f"tokenizer.{divisor}", tokenizer.get(divisor), mine["tokenizer"][divisor]))
    differing = [f"{field}: {theirs} -> {ours}" for field, theirs, ours in pairs if theirs != ours]
    if differing:
        raise CheckpointError(
            f"init_from: {checkpoint} holds another model; what differs (there -> recipe):\n  "
            + "\n  ".join(differing)
            + "\nA run that begins with its weights needs the same shape and vocabulary."
        )
