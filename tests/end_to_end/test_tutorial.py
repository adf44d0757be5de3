"""The tutorial by hand, every command of it in order and in one folder, as a reader would give them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.docs.fences import blocks_of

pytestmark = [pytest.mark.slow, pytest.mark.engine]
DEMO, *BY_HAND = blocks_of(REPOSITORY / "docs" / "tutorial.md")


def test_every_command_of_the_tutorial_works_in_order(tmp_path: Path) -> None:
    assert DEMO.text == "make demo"  # which test_demo.py runs
    assert len(BY_HAND) == 3
    (tmp_path / "recipes").symlink_to(REPOSITORY / "recipes")
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "retrieva").write_text(f'#!/bin/sh\nexec {sys.executable} -m retrieva_pretrain "$@"\n')
    (programs / "retrieva").chmod(0o755)
    said = []
    for block in BY_HAND:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.text],
            cwd=tmp_path,
            env={
                **os.environ,
                "PATH": f"{programs}:{os.environ['PATH']}",
                "PYTHONPATH": str(REPOSITORY),
                "OMP_NUM_THREADS": "1",
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        said.append(done.stdout)
    ended = json.loads((tmp_path / "runs" / "small" / "exit.json").read_text(encoding="utf-8"))
    assert (ended["reason"], ended["step"]) == ("done", 25)
    assert (tmp_path / "small-hf" / "model.safetensors").is_file()
    assert "%" in said[-1]
