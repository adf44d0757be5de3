"""The wheel, installed into a clean environment far from the checkout, is all that a user needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**kept, **environment},
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def test_a_wheel_in_a_clean_environment_plans_prepares_and_trains(tmp_path: Path) -> None:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    constraints = REPOSITORY / "constraints" / f"python{version}.txt"
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", "--upgrade", "pip>=24", cwd=tmp_path)
    run(python, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path / "wheel", REPOSITORY, cwd=tmp_path)
    (wheel,) = (tmp_path / "wheel").glob("*.whl")
    # torch by its pin first, as the Makefile does.
    run(python, "-m", "pip", "install", "-q", "-c", constraints, "torch", cwd=tmp_path)
    run(python, "-m", "pip", "install", "-q", "-c", constraints, wheel, cwd=tmp_path)
    run(python, "-m", "pip", "check", cwd=tmp_path)

    work = tmp_path / "work"
    work.mkdir()
    retrieva = tmp_path / "venv" / "bin" / "retrieva"
    found = run(
        python,
        "-c",
        "from retrieva_pretrain.bundled import recipes_folder; print(recipes_folder())",
        cwd=work,
    )
    recipes = Path(found.strip())
    assert recipes.is_relative_to(tmp_path / "venv")
    for part in (
        "recipes/clusters/slurm-h100.yaml",
        "slurm/train_job.sbatch",
        "grid_engine/data_job.sh",
        "local/train_job.sh",
    ):
        assert (recipes.parent / part).is_file()
    assert "454,000" in run(retrieva, "plan", recipes / "retrievabert-1.3b.yaml", cwd=work)
    run(retrieva, "data", "samples", "raw", cwd=work)
    assert any((work / "raw").rglob("*.xml.bz2"))


def test_the_wheel_alone_works_from_any_folder(tmp_path: Path) -> None:
    """Installed without its dependencies, which it sees in this environment: nothing of the checkout is needed."""
    run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "-w",
        tmp_path / "wheel",
        REPOSITORY,
        cwd=tmp_path,
    )
    (wheel,) = (tmp_path / "wheel").glob("*.whl")
    installed = tmp_path / "installed"
    run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", installed, wheel, cwd=tmp_path)
    assert not any("tests" in path.parts or "docs" in path.parts for path in installed.rglob("*"))
    work = tmp_path / "a folder with spaces"
    work.mkdir()

    def retrieva(*arguments: str | Path) -> str:
        return run(sys.executable, "-m", "retrieva_pretrain", *arguments, cwd=work, PYTHONPATH=str(installed))

    where = run(
        sys.executable,
        "-c",
        "import retrieva_pretrain; from retrieva_pretrain.bundled import recipes_folder; print(recipes_folder())",
        cwd=work,
        PYTHONPATH=str(installed),
    )
    recipes = Path(where.strip())
    assert recipes.is_relative_to(installed)
    for schema in ("recipe.schema.json", "corpora/corpus.schema.json", "clusters/cluster.schema.json"):
        assert (recipes / schema).is_file()
    assert "187.3 B" in retrieva("plan", recipes / "retrievabert-1.3b.yaml", "--gpus", "32")
    # A recipe of one's own inherits from the installed one.
    (work / "own.yaml").write_text(
        f"base: {recipes / 'retrievabert-1.3b.yaml'}\nname: own\n", encoding="utf-8"
    )
    assert "own" in retrieva("plan", "own.yaml")
    assert "sbatch" in retrieva("launch", "own.yaml", "--cluster", "slurm-h100", "--dry-run")
    assert "qsub" in retrieva("launch", "own.yaml", "--cluster", "tsubame4", "--dry-run")
    retrieva("data", "samples", "raw")
    assert any((work / "raw").rglob("*.xml.bz2"))
    for command in ("export", "evaluate", "import", "demo", "preflight"):
        assert "Usage" in retrieva(command, "--help")
    # What every export copies, and the card's template.
    assert (
        installed / "retrieva_pretrain" / "export" / "remote_code" / "modeling_retrieva_bert.py"
    ).is_file()
    assert (installed / "retrieva_pretrain" / "export" / "card.md.j2").is_file()
