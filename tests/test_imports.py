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
HEAVY = ENGINE | {"datasets", "pyarrow"}
# What takes tens of milliseconds each to load: too much for a help that is to be there at once.
SLOW_TO_LOAD = HEAVY | {
    "numpy",
    "pydantic",
    "yaml",
    "rich",
    "sentencepiece",
    "transformers",
    "jinja2",
    "psutil",
}
PURE = {"recipe", "curriculum"}
# A part of retrieva_pretrain, and what it may import besides itself, data_prep and the modules beside the packages,
# at the top of a file or inside a function. `cli` hands everything on to everything, and nothing imports it.
MAY_IMPORT: dict[str, set[str]] = {
    "recipe": set(),
    "curriculum": {"recipe"},
    "planning": PURE,
    "data": PURE,
    "platform": ENGINE,
    "model": PURE | ENGINE | {"platform"},
    "training": PURE | ENGINE | {"planning", "data", "model", "platform"},
    # Traces a step of training on fake tensors, in a process of its own.
    "tracing": PURE | ENGINE | {"data", "model", "platform", "training"},
    "launch": PURE,
    # Stages are timed by training's own steps.
    "preflight": PURE | ENGINE | {"planning", "data", "model", "training", "platform"},
    "evaluation": {"torch"},
    # Weights go through the model and the checkpoints of training; a card tells the run's summary.
    "export": PURE | ENGINE | {"model", "platform", "training", "report"},
    "report": PURE | {"planning", "launch", "evaluation"},
    "demo": PURE | {"launch", "export", "report"},
    # The modules beside the packages: everyone may import them, so they import next to nothing.
    "bundled": set(),
    "checkpoint_names": set(),
    "durations": set(),
    "errors": set(),
    "exit_codes": set(),
    "json_files": set(),
    "optional_packages": {"recipe"},
    "outcome": set(),
    "redaction": set(),
}
BESIDE = {
    "bundled",
    "checkpoint_names",
    "durations",
    "errors",
    "exit_codes",
    "json_files",
    "optional_packages",
    "outcome",
    "redaction",
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


def part_of(name: str) -> str | None:
    """The part of the project, or the engine, that a module belongs to; None for other libraries."""
    top, _, rest = name.partition(".")
    if top == "retrieva_pretrain":
        return rest.partition(".")[0] or None
    return top if top in ENGINE or top == "data_prep" else None


def test_every_part_has_its_arrows() -> None:
    package = REPOSITORY / "retrieva_pretrain"
    parts = {path.parent.name for path in package.glob("*/__init__.py")} | {
        p.stem for p in package.glob("*.py")
    }
    assert parts - {"__init__", "__main__", "cli"} == set(MAY_IMPORT)


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_no_import_goes_against_the_arrows_of_the_design(part: str) -> None:
    folder = REPOSITORY / "retrieva_pretrain" / part
    files = sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
    allowed = {part, "data_prep", "__version__"} | BESIDE | MAY_IMPORT[part]
    assert [
        f"{path.relative_to(REPOSITORY)} imports {name}"
        for path in files
        for name in sorted(imports_of(path))
        if part_of(name) not in {None, *allowed}
    ] == []


@pytest.mark.parametrize(
    ("folder", "barred"),
    [
        ("data_prep", {"retrieva_pretrain"} | ENGINE),
        # Copied into every export, where there is nothing of this project.
        ("retrieva_pretrain/export/remote_code", {"retrieva_pretrain", "data_prep", "megatron"}),
    ],
)
def test_what_stands_alone_imports_nothing_of_the_rest(folder: str, barred: set[str]) -> None:
    files = sorted((REPOSITORY / folder).rglob("*.py"))
    assert files
    assert [
        (path.name, name) for path in files for name in imports_of(path) if name.split(".")[0] in barred
    ] == []


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
    _run_without(HEAVY, arguments)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_the_help_loads_little_more_than_the_command_line_itself(arguments: list[str]) -> None:
    _run_without(SLOW_TO_LOAD, arguments)


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
    _run_without(HEAVY, [command, str(run)])


def _run_without(barred: set[str], arguments: list[str]) -> None:
    program = (
        "import sys\n"
        "from retrieva_pretrain.cli import main\n"
        "sys.argv = ['retrieva', *sys.argv[1:]]\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code, stop.code\n"
        f"loaded = {barred!r} & set(sys.modules)\n"
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
