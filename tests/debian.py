"""Programs that tests use for real and that pip does not bring: Debian's packages, installed where that is allowed."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest


def need(packages: list[str], present: Callable[[], bool]) -> None:
    """Install packages where they are missing and we are root on a Debian; skip the test, saying why, where not."""
    if present():
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip("needs what Debian calls " + " ".join(packages))
    with (Path(tempfile.gettempdir()) / "retrieva-tests-apt.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # A machine that has never asked has no list of packages.
        for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
            done = subprocess.run(
                ["apt-get", *command],
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
                capture_output=True,
                text=True,
                check=False,
            )
    if done.returncode != 0:
        pytest.skip(f"{packages[0]} cannot be installed here: {done.stderr.strip()[-300:]}")
