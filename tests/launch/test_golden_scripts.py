"""The scripts that jobs are made of, for every profile that is shipped, are sound shell."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.debian import need

SCRIPTS = sorted(
    path
    for folder in ("golden", "golden_training")
    for path in (Path(__file__).parent / folder).iterdir()
    if path.suffix != ".py"
)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_bash_reads_every_script(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)


@pytest.mark.slow
def test_shellcheck_finds_nothing() -> None:
    need(["shellcheck"], lambda: shutil.which("shellcheck") is not None)
    # The environments that scripts activate are not on this machine; and a value with a $ in it is meant so.
    done = subprocess.run(
        ["shellcheck", "--exclude=SC1091,SC2016", *SCRIPTS],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
