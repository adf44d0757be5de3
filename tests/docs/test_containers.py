"""The two container definitions hold what the wheel is made of, do the same, and pass the linter."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import REPOSITORY

DOCKERFILE = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
APPTAINER = (REPOSITORY / "retrieva.def").read_text(encoding="utf-8")


def section(name: str) -> str:
    return re.split(r"^%\w+\n", APPTAINER.split(f"%{name}\n")[1], maxsplit=1, flags=re.MULTILINE)[0]


def packed() -> set[str]:
    """Everything that the wheel is made of, by pyproject.toml."""
    text = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    packages = re.search(r"^packages = \[(.*)\]", text, re.MULTILINE)
    assert packages
    forced = text.split("force-include]\n")[1].split("\n\n")[0]
    return {*re.findall(r'"(\w+)"', packages[1]), *re.findall(r"^(\w+) = ", forced, re.MULTILINE)} | {
        "pyproject.toml",
        "README.md",
        "LICENSE",
    }


def test_both_copy_what_the_wheel_is_made_of_and_nothing_else() -> None:
    copied = {
        word for line in re.findall(r"^COPY (.*) \S+$", DOCKERFILE, re.MULTILINE) for word in line.split()
    }
    let_in = set(re.findall(r"^!(\S+)$", (REPOSITORY / ".dockerignore").read_text(), re.MULTILINE))
    listed = {line.split()[0] for line in section("files").splitlines() if line.strip()}
    assert copied == let_in == listed == packed()
    assert all((REPOSITORY / name).exists() for name in copied)


def test_both_begin_with_the_same_image_and_install_alike() -> None:
    (docker_tag,) = re.findall(r"^ARG NGC_TAG=(\S+)", DOCKERFILE, re.MULTILINE)
    (apptainer_tag,) = re.findall(r"^\s+NGC_TAG=(\S+)", section("arguments"), re.MULTILINE)
    assert docker_tag == apptainer_tag
    assert "FROM nvcr.io/nvidia/pytorch:${NGC_TAG}" in DOCKERFILE
    assert "From: nvcr.io/nvidia/pytorch:{{ NGC_TAG }}" in APPTAINER
    install = re.findall(r"python -m pip install .*?'\S+'", DOCKERFILE)
    assert install == re.findall(r"python -m pip install .*?'\S+'", APPTAINER)
    assert len(install) == 1


def test_the_shell_of_the_apptainer_definition_is_valid() -> None:
    for name in ("post", "runscript", "test"):
        subprocess.run(["sh", "-n", "-c", section(name)], check=True)


def test_hadolint_finds_nothing() -> None:
    linter = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if linter is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run(
        [linter, str(REPOSITORY / "Dockerfile")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", sorted((REPOSITORY / ".github").rglob("*.yml")), ids=lambda path: path.stem)
def test_workflows_and_templates_are_yaml(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict)


def test_the_workflow_runs_what_ci_runs() -> None:
    workflow = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    commands = [step["run"] for step in workflow["jobs"]["ci"]["steps"] if step.get("name") == ".ci/run"]
    assert len(commands) == 1
    assert commands[0].split()[-1] == ".ci/run"
    assert os.access(REPOSITORY / ".ci" / "run", os.X_OK)
