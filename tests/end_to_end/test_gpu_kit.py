"""The GPU kit runs whole on a CPU, from the packed folder that a bare machine gets."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY

PACKED = ("retrieva_pretrain", "data_prep", "recipes", "benchmarks", "local", "slurm", "grid_engine")
# What a CPU has not: kernels of a GPU alone.
ONLY_ON_A_GPU = {("attention", "dropout_rate"), ("attention", "backend")}


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What prepare.sh packs, without wheels, which an installed environment does not need."""
    folder = tmp_path_factory.mktemp("kit")
    for name in PACKED:
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "wheels").mkdir()
    (folder / "commit").write_text("0" * 40)
    subprocess.run(
        [sys.executable, folder / "benchmarks" / "gpu" / "demo_data.py", folder],
        check=True,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )
    return folder


def run_kit(kit: Path, out: Path, *arguments: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        ["bash", kit / "benchmarks" / "gpu" / "run.sh", "--rehearse", "--out", out, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=out.parent,
        env={**os.environ, "PYTHON": sys.executable},
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.engine
def test_every_part_of_the_kit_runs_on_a_cpu(kit: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    results = run_kit(kit, out, "--limit", "1800")
    ends = {r["part"]: r["code"] for r in results if r["kind"] == "end"}
    assert len(ends) == 12
    assert set(ends.values()) == {0}
    failed = [r for r in results if "error" in r and (r["part"], r["kind"]) not in ONLY_ON_A_GPU]
    assert not failed, failed
    promised = [r for r in results if "within" in r or "same_to_the_bit" in r]
    assert len(promised) >= 6
    assert all(r.get("within", True) and r.get("same_to_the_bit", True) for r in promised), promised
    speeds = [r for r in results if r["kind"] == "speed"]
    assert {r["part"] for r in speeds} == {"lengths", "fusions", "compile"}
    assert all(r["tokens_per_second"] > 0 and r["planned_memory"] > 0 for r in speeds)
    names = {"results.jsonl", "summary.txt", "profile.txt", "log.txt", "measured.json"}
    assert {path.name for path in out.iterdir()} == names
    assert "tokens/s" in (out / "summary.txt").read_text()


@pytest.mark.slow
@pytest.mark.engine
def test_a_kit_without_time_says_what_it_skipped(kit: Path, tmp_path: Path) -> None:
    results = run_kit(kit, tmp_path / "out", "--limit", "40", "--only", "machine", "lengths")
    assert [(r["part"], r["kind"]) for r in results if r["kind"] in ("end", "skipped")] == [
        ("machine", "end"),
        ("lengths", "skipped"),
    ]


def h100_page(folder: Path | None) -> str:
    program = (
        "import sys; from pathlib import Path; import report; print(report.page(*map(Path, sys.argv[1:])))"
    )
    program = program if folder is not None else "import report; print(report.page(None))"
    done = subprocess.run(
        [sys.executable, "-c", program, *([] if folder is None else [folder])],
        capture_output=True,
        text=True,
        check=True,
        cwd=REPOSITORY / "benchmarks" / "gpu",
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    return done.stdout


def predictions(page: str) -> list[list[str]]:
    """Return the cells of a page's tables that are no measurement, row by row."""
    kept, rows = [], []
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            kept = []
        elif not kept:  # a table's head
            kept = [number for number, cell in enumerate(cells) if not cell.endswith("measured")]
        else:
            rows.append([cells[number] for number in kept])
    return rows


def test_the_predictions_of_the_h100s_page_are_those_of_the_plan() -> None:
    page = (REPOSITORY / "docs" / "benchmarks" / "h100.md").read_text(encoding="utf-8")
    now = predictions(h100_page(None))
    assert len(now) > 20
    assert predictions(page) == now, "python benchmarks/gpu/report.py --predictions, or with the results"


def test_the_page_is_not_written_without_results(tmp_path: Path) -> None:
    for words, code, said in (
        ([], 2, "give a folder of results, or --predictions"),
        ([tmp_path], 1, "no results of the kit"),
    ):
        done = subprocess.run(
            [sys.executable, "benchmarks/gpu/report.py", "--page", tmp_path / "page.md", *words],
            capture_output=True,
            text=True,
            check=False,
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )
        assert done.returncode == code
        assert said in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "page.md").exists()


def test_the_page_of_the_h100_says_not_yet_for_what_no_gpu_has_measured(tmp_path: Path) -> None:
    empty = h100_page(None)
    rows = [line.split(" | ") for line in empty.splitlines() if line.startswith("| 128 x 64 |")]
    assert len(rows) == 1
    assert [cell.strip(" |") for cell in rows[0]].count("not yet") == 3
    # Invented, and nowhere but here.
    speed = {
        "part": "lengths",
        "kind": "speed",
        "length": 128,
        "samples": 64,
        "mfu": 0.25,
        "peak_memory": 2**30,
    }
    speed |= {"micro_batch_seconds": 0.1, "update_seconds": 0.4, "tokens_per_second": 81_920.0}
    lines = [
        speed,
        {"part": "lengths", "kind": "speed", "length": 128, "samples": 128, "out_of_memory": True},
    ]
    lines.append({"part": "resume", "kind": "resume", "same_to_the_bit": False, "first_difference": 7})
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    filled = h100_page(tmp_path)
    # A step of 1,024 samples: 16 micro-batches and the update are 2 seconds.
    row = next(line for line in filled.splitlines() if line.startswith("| 128 x 64 |"))
    assert "| 65,536 |" in row
    assert "| 20.0% |" in row
    assert "| 1.0 |" in row
    assert "out of memory" in next(line for line in filled.splitlines() if line.startswith("| 128 x 128 |"))
    assert "| NO: " in filled
