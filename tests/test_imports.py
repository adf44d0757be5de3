"""Which package may import which, and which must never load torch."""

from __future__ import annotations

import ast
import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
ENGINE = {"torch", "megatron"}
SCHEDULERS = {"retrieva_pretrain.launch"}
# A package, and what nothing in it may import, at the top of a file or inside a function.
FORBIDDEN = {
    "data_prep": {"retrieva_pretrain"} | ENGINE,
    "retrieva_pretrain/recipe": ENGINE
    | {
        f"retrieva_pretrain.{p}" for p in ("training", "model", "platform", "data", "launch", "cli", "report")
    },
    "retrieva_pretrain/curriculum": ENGINE
    | {
        f"retrieva_pretrain.{p}" for p in ("training", "model", "platform", "data", "launch", "cli", "report")
    },
    "retrieva_pretrain/planning": ENGINE
    | {f"retrieva_pretrain.{p}" for p in ("training", "model", "platform", "launch", "cli", "report")},
    "retrieva_pretrain/data": {
        f"retrieva_pretrain.{p}" for p in ("training", "model", "launch", "cli", "report")
    },
    "retrieva_pretrain/model": {
        f"retrieva_pretrain.{p}" for p in ("training", "launch", "cli", "report", "data")
    },
    "retrieva_pretrain/platform": {
        f"retrieva_pretrain.{p}" for p in ("training", "model", "launch", "cli", "report", "data", "recipe")
    },
    "retrieva_pretrain/training": SCHEDULERS | {"retrieva_pretrain.cli", "retrieva_pretrain.report"},
    "retrieva_pretrain/launch": ENGINE
    | {f"retrieva_pretrain.{p}" for p in ("training", "model", "platform", "data", "cli")},
    "retrieva_pretrain/preflight": {f"retrieva_pretrain.{p}" for p in ("training", "model", "cli", "report")},
    "retrieva_pretrain/evaluation": SCHEDULERS
    | {f"retrieva_pretrain.{p}" for p in ("training", "model", "data", "cli")},
    "retrieva_pretrain/export": SCHEDULERS | {"retrieva_pretrain.cli"},
    # Copied into every export, where there is nothing of this project.
    "retrieva_pretrain/export/remote_code": {"retrieva_pretrain", "data_prep", "megatron"},
    "retrieva_pretrain/report": ENGINE
    | {f"retrieva_pretrain.{p}" for p in ("training", "model", "platform", "cli")},
}


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("package", FORBIDDEN)
def test_no_import_goes_against_the_arrows_of_the_design(package: str) -> None:
    files = sorted((REPOSITORY / package).rglob("*.py"))
    assert files, f"{package} has no files"
    against = [
        f"{path.relative_to(REPOSITORY)} imports {name}"
        for path in files
        for name in sorted(imports_of(path))
        for barred in FORBIDDEN[package]
        if name == barred or name.startswith(barred + ".")
    ]
    assert not against


def test_only_the_platform_asks_whether_there_is_cuda() -> None:
    asking = [
        str(path.relative_to(REPOSITORY))
        for path in (REPOSITORY / "retrieva_pretrain").rglob("*.py")
        if "torch.cuda" in path.read_text(encoding="utf-8") and path.parent.name != "platform"
    ]
    assert not asking


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["plan", "--help"],
        ["plan", str(REPOSITORY / "recipes" / "retrievabert-1.3b.yaml")],
        ["train", "--help"],
        [
            "launch",
            str(REPOSITORY / "recipes" / "retrievabert-1.3b.yaml"),
            "--cluster",
            "slurm-h100",
            "--dry-run",
        ],
        ["status", "--help"],
        ["logs", "--help"],
        ["cancel", "--help"],
        ["preflight", "--cluster", "tsubame4", "--nodes", "2", "--dry-run"],
        ["data", "build", "--help"],
        ["data", "index", "--help"],
        ["export", "--help"],
        ["evaluate", "--help"],
        ["import", "--help"],
        ["fill-mask", "--help"],
    ],
)
def test_commands_that_promise_to_be_light_never_load_torch(arguments: list[str]) -> None:
    _run_without_torch(arguments)


@pytest.mark.parametrize("command", ["status", "logs", "cancel"])
def test_a_run_is_looked_at_without_torch(command: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "logs").mkdir(parents=True)
    record = {"time": "2026-01-01T00:00:00+00:00", "submission": 1, "kind": "train", "scheduler": "local"}
    record |= {"job_id": f"{socket.gethostname()}:1:1", "nodes": 1, "script": "001-train.sh", "command": []}
    (run / "jobs.jsonl").write_text(json.dumps(record) + "\n")
    (run / "metrics.jsonl").write_text(
        '{"kind": "train", "step": 7, "loss": 2.5, "tokens_per_second": 10.0}\n'
    )
    (run / "recipe.yaml").write_text((REPOSITORY / "tests" / "recipe" / "small.yaml").read_text())
    (run / "logs" / "001-train.log").write_text("a line\n")
    _run_without_torch([command, str(run)])


def _run_without_torch(arguments: list[str]) -> None:
    program = (
        "import sys\n"
        "from retrieva_pretrain.cli import main\n"
        "sys.argv = ['retrieva', *sys.argv[1:]]\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code, stop.code\n"
        "loaded = {'torch', 'megatron', 'datasets', 'pyarrow'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
    )
    assert done.returncode == 0, done.stderr
