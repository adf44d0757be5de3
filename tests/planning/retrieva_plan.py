"""`retrieva plan`, run as a user runs it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.command import retrieva
from tests.conftest import REPOSITORY


def retrieva_plan(
    *arguments: str, cwd: Path = REPOSITORY, columns: int = 80
) -> subprocess.CompletedProcess[str]:
    return retrieva(
        "plan",
        *arguments,
        code=None,
        cwd=cwd,
        environment={"COLUMNS": str(columns), "PYTHONIOENCODING": "utf-8"},
    )
