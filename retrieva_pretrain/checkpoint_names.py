"""What the checkpoints of a run are called: runs/NAME/checkpoints/step_0031000.

Training writes them; a launcher and the commands that look at a run find them by the same name, without torch.
"""

from __future__ import annotations

import re
from pathlib import Path


def checkpoint_name(step: int) -> str:
    """Return the name of the checkpoint after `step` steps."""
    return f"step_{step:07d}"


def step_of(name: str) -> int | None:
    """Return the step of a checkpoint of that name, None where it is the name of something else."""
    match = re.fullmatch(r"step_(\d+)", name)
    return int(match[1]) if match else None


def checkpoint_folders(checkpoints: Path) -> list[tuple[int, Path]]:
    """Return the step and the folder of every checkpoint, whole or damaged; other names are left alone."""
    found = ((step_of(path.name), path) for path in checkpoints.glob("step_*"))
    return [(step, path) for step, path in found if step is not None]
