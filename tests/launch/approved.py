"""What both kinds of scripts are held against: files that were read and approved, and a python that shows its words."""

from __future__ import annotations

import os
from pathlib import Path


def assert_is_approved(text: str, golden: Path) -> None:
    """A script is as it was read and approved; RENEW_GOLDEN=1 writes it anew, to be read before it is committed."""
    if os.environ.get("RENEW_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


def environment_that_shows(venv: Path, stubs: Path, *variables: str) -> None:
    """Make what stands for a virtual environment, whose python prints its folder, variables and words, a line each."""
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "activate").write_text(f'PATH="{stubs}:$PATH"')
    stubs.mkdir()
    shown = " ".join(f'"${name}"' for name in ("PWD", *variables))
    (stubs / "python").write_text(f'#!/bin/bash\nprintf "%s\\n" {shown} "$@"\n')
    (stubs / "python").chmod(0o755)
