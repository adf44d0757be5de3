"""A run on disk: which of its checkpoints are whole, and whether it belongs to a recipe. No torch.

runs/NAME/
  recipe.yaml          the resolved recipe
  identity.json        what of it no restart may change
  checkpoints/step_0031000/...   `latest` names the newest one
  metrics.jsonl  tensorboard/
"""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.whole_files import write_whole
from retrieva_pretrain.errors import CheckpointError
from retrieva_pretrain.recipe.identity import differences
from retrieva_pretrain.recipe.loading import dump_yaml
from retrieva_pretrain.recipe.schema import Recipe

log = logging.getLogger(__name__)

DESCRIPTION = "checkpoint.json"


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run: runs_dir/name."""

    path: Path

    @classmethod
    def of(cls, recipe: Recipe) -> RunFolder:
        """Return the folder of a recipe's run; it need not be there."""
        return cls(Path(recipe.runs_dir) / recipe.name)

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    def checkpoint(self, step: int) -> Path:
        """Return the folder of the checkpoint after `step` steps."""
        return self.checkpoints / f"step_{step:07d}"

    def checkpoint_folders(self) -> list[tuple[int, Path]]:
        """Return the step and the folder of every checkpoint, whole or damaged; other names are left alone."""
        found = ((re.fullmatch(r"step_(\d+)", path.name), path) for path in self.checkpoints.glob("step_*"))
        return [(int(match[1]), path) for match, path in found if match]

    def newest_checkpoint(self) -> Path | None:
        """Return the newest whole checkpoint, or None. Damaged ones are passed over with a warning.

        The folders count, not the text of `latest`: a kill between the rename of a checkpoint and the writing
        of `latest` must not lose it.
        """
        for _, candidate in sorted(self.checkpoint_folders(), reverse=True):
            damage = find_damage(candidate)
            if damage is None:
                return candidate
            log.warning("checkpoint %s is damaged (%s); looking for the one before it", candidate, damage)
        return None

    def refuse_other_recipe(self, identity: dict[str, Any]) -> None:
        """Raise CheckpointError where the run, or its newest checkpoint, was made by another recipe."""
        newest = self.newest_checkpoint()
        file = self.path / "identity.json" if newest is None else newest / DESCRIPTION
        if not file.exists():
            return
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{file}: cannot be read ({error}); remove it if the run may go on."
            ) from None
        found = differences(content if newest is None else content["identity"], identity)
        if found:
            raise CheckpointError(
                f"{file.parent}: made by another recipe; what differs (there -> recipe):\n  "
                + "\n  ".join(found)
                + "\nChange the recipe back, or give it another `name` so that it trains in a folder of its own."
            )

    def write_recipe(self, recipe: Recipe, identity: dict[str, Any]) -> None:
        """Write the resolved recipe and its identity."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_whole(self.path / "recipe.yaml", dump_yaml(recipe).encode())
        write_whole(self.path / "identity.json", json.dumps(identity, indent=1, ensure_ascii=False).encode())


def read_description(checkpoint: Path) -> dict[str, Any]:
    """Read a checkpoint's `checkpoint.json`: its step, its identity, its files and their sizes."""
    description: dict[str, Any] = json.loads((checkpoint / DESCRIPTION).read_text(encoding="utf-8"))
    return description


def find_damage(checkpoint: Path) -> str | None:
    """Return what is wrong with a checkpoint's files, or None where all are there in their full size."""
    try:
        files = read_description(checkpoint)["files"]
    except (OSError, ValueError, KeyError) as error:
        return f"{DESCRIPTION} cannot be read: {error}"
    for name, size in files.items():
        file = checkpoint / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes instead of {size}"
    return None
