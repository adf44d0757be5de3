"""The code of a run as it was when the run was submitted: a queued job must not run what was edited since."""

from __future__ import annotations

import shutil
from pathlib import Path

from retrieva_pretrain.errors import LaunchError

PROGRAM = "retrieva.py"
_PACKAGES = Path(__file__).resolve().parents[2]
# Started by its path, so that the folder it lies in is the first that Python imports from. With `-m` that would be
# the working directory, which may well be a checkout that somebody edits.
_PROGRAM = '''\
"""The `retrieva` command, with the code as it was when the run was submitted."""

from retrieva_pretrain.cli.rank import main

if __name__ == "__main__":
    main()
'''


def snapshot_code(folder: Path) -> Path:
    """Copy this program's two packages into a folder, and return the file that runs them.

    Raises:
        LaunchError: the folder cannot be written.
    """
    new = folder.with_name(f".{folder.name}.new")
    try:
        shutil.rmtree(new, ignore_errors=True)
        for package in ("retrieva_pretrain", "data_prep"):
            shutil.copytree(
                _PACKAGES / package,
                new / package,
                ignore=shutil.ignore_patterns("__pycache__", "samples", ".*"),
            )
        (new / PROGRAM).write_text(_PROGRAM, encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)
    except (OSError, shutil.Error) as error:
        raise LaunchError(f"{folder}: the code cannot be copied there: {error}") from None
    return folder / PROGRAM
