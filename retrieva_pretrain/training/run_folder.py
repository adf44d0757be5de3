"""A run on disk: which of its checkpoints are whole, and whether it belongs to a recipe. No torch.

runs/NAME/
  recipe.yaml          the resolved recipe
  identity.json        what of it no restart may change
  lock                 held by the training that is at work
  checkpoints/step_0031000/...   `latest` names the newest one
  metrics.jsonl  tensorboard/

In `checkpoints`, a name that begins with a dot is being written or removed, and is cleared away when the run
starts again; `step_N.damaged` was found damaged and set aside.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.whole_files import sync_directory, write_whole
from retrieva_pretrain.checkpoint_names import checkpoint_folders, checkpoint_name, step_of
from retrieva_pretrain.errors import CheckpointError
from retrieva_pretrain.recipe.identity import differences
from retrieva_pretrain.recipe.loading import dump_yaml
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.training.checkpoint_files import find_damage, read_description

DAMAGED = ".damaged"


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run: runs_dir/name."""

    path: Path

    @classmethod
    def of(cls, recipe: Recipe) -> RunFolder:
        """Return the folder of a recipe's run; it need not be there."""
        return cls(recipe.run_folder)

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    def checkpoint(self, step: int) -> Path:
        """Return the folder of the checkpoint after `step` steps."""
        return self.checkpoints / checkpoint_name(step)

    def checkpoint_folders(self) -> list[tuple[int, Path]]:
        """Return the step and the folder of every checkpoint, whole or damaged."""
        return checkpoint_folders(self.checkpoints)

    def checkpoints_by_age(self) -> list[tuple[Path, str | None]]:
        """Return every checkpoint, newest first, and what is wrong with it at first sight (`find_damage`).

        The folders count, not the text of `latest`: a kill between the rename of a checkpoint and the writing
        of `latest` must not lose it.
        """
        return [(path, find_damage(path)) for _, path in sorted(self.checkpoint_folders(), reverse=True)]

    def newest_checkpoint(self) -> Path | None:
        """Return the newest checkpoint that looks whole, or None where the run has no checkpoint.

        Its contents are not read; `training/resume.py` does that before it loads one.

        Raises:
            CheckpointError: there are checkpoints, but none of them is whole.
        """
        found = self.checkpoints_by_age()
        for path, damage in found:
            if damage is None:
                return path
        if found:
            raise no_whole_checkpoint(self.checkpoints, found)
        return None

    def refuse_other_recipe(self, identity: dict[str, Any]) -> None:
        """Raise CheckpointError where the run, or its newest checkpoint, was made by another recipe."""
        before = self.recorded_identity()
        found = differences(before, identity) if before is not None else []
        if found:
            raise CheckpointError(
                f"{self.path}: made by another recipe; what differs (there -> recipe):\n  "
                + "\n  ".join(found)
                + "\nChange the recipe back, or give it another `name` so that it trains in a folder of its own."
            )

    def recorded_identity(self) -> dict[str, Any] | None:
        """Return the identity with which the run was made, or None for a run that has not begun.

        Raises:
            CheckpointError: there are checkpoints but none is whole, or `identity.json` cannot be read.
        """
        newest = self.newest_checkpoint()
        if newest is not None:
            identity: dict[str, Any] = read_description(newest)["identity"]
            return identity
        file = self.path / "identity.json"
        if not file.exists():
            return None
        try:
            content = json.loads(file.read_bytes().decode("utf-8"))
            if not isinstance(content, dict):
                raise ValueError("it holds no mapping")
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{file}: cannot be read ({error}); remove it if the run may go on."
            ) from None
        return content

    def write_recipe(self, recipe: Recipe, identity: dict[str, Any]) -> None:
        """Write the resolved recipe and its identity."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_whole(self.path / "recipe.yaml", dump_yaml(recipe).encode())
        write_whole(self.path / "identity.json", json.dumps(identity, indent=1, ensure_ascii=False).encode())

    def clear_leftovers(self) -> None:
        """Remove what a killed run left half written or half removed. Only for the holder of the run's lock."""
        for leftover in self.checkpoints.glob(".step_*"):
            # A process that outlived its killed run may still write into one; what stays goes the next time.
            shutil.rmtree(leftover, ignore_errors=True)

    def publish(self, partial: Path, step: int) -> Path:
        """Give a checkpoint that is complete and on the disk its name; returns its folder."""
        final = self.checkpoint(step)
        # What stands here is damaged, or whole with a `latest` that could not be written: it goes when the new one is
        # in its place.
        before = final.with_name(f".{final.name}.removed")
        shutil.rmtree(before, ignore_errors=True)
        if final.exists():
            final.rename(before)
        partial.rename(final)
        sync_directory(self.checkpoints)
        shutil.rmtree(before, ignore_errors=True)
        self.point_latest_to(final)
        return final

    def point_latest_to(self, checkpoint: Path) -> None:
        """Let `latest` name a checkpoint."""
        write_whole(self.checkpoints / "latest", f"{checkpoint.name}\n".encode())

    def rotate(self, saved: int, keep: int, for_ever: Collection[int]) -> None:
        """Remove old checkpoints once the one after `saved` steps is whole.

        The newest `keep` stay, and those after the steps of `for_ever`. What was set aside as damaged goes when
        a whole one of the same step or a later one is there.
        """
        past = sorted((step, path) for step, path in self.checkpoint_folders() if step <= saved)
        for step, path in past[:-keep]:
            if step not in for_ever:
                self.remove(path)
        for path in self.checkpoints.glob(f"step_*{DAMAGED}"):
            step_aside = step_of(path.name.removesuffix(DAMAGED))
            if step_aside is not None and step_aside <= saved:
                self.remove(path)

    def set_aside(self, damaged: Path) -> None:
        """Rename a damaged checkpoint, so that no start looks at it again and a person can."""
        aside = damaged.with_name(damaged.name + DAMAGED)
        if aside.exists():
            self.remove(aside)
        damaged.rename(aside)
        sync_directory(self.checkpoints)

    def remove(self, path: Path) -> None:
        """Remove a folder of `checkpoints`; a kill in between leaves nothing under its name."""
        hidden = path.with_name(f".{path.name}.removed")
        shutil.rmtree(hidden, ignore_errors=True)
        path.rename(hidden)
        shutil.rmtree(hidden)


def no_whole_checkpoint(folder: Path, found: list[tuple[Path, str | None]]) -> CheckpointError:
    """Return the error of a run whose checkpoints are all damaged: to begin anew unasked would lose weeks."""
    return CheckpointError(
        f"{folder}: there are checkpoints, but none of them can be used:\n"
        + "\n".join(f"  {path.name}: {damage}" for path, damage in found)
        + "\nBring one back from a copy, or remove these folders to begin the run anew."
    )
