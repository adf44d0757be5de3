"""The `retrieva` command as a user runs it: this code, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.conftest import REPOSITORY
from tests.waiting import PATIENCE


def retrieva(
    *words: object,
    code: int | None = 0,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    **options: Any,
) -> subprocess.CompletedProcess[str]:
    """Run the command line, and check its exit code unless `code` is None; `options` are subprocess's own."""
    done: subprocess.CompletedProcess[str] = subprocess.run(
        [sys.executable, "-m", "retrieva_pretrain", *map(str, words)],
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **(environment or {})},
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": PATIENCE, **options},
    )
    assert code in (None, done.returncode), f"exit {done.returncode}: {done.stdout}{done.stderr}"[-4000:]
    return done
