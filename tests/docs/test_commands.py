"""Every command that the READMEs and the docs show is run here, or checked against the real command line.

What stands before a block of commands says how:

- nothing: each command is one of ours, of make, or a known simple one, and is parsed by what would run it; ours are run
  by tests/end_to_end/test_documented_commands.py on a small model
- `<!-- run -->`: the block is run as it stands, in a folder with the recipes, a tokenizer and two small corpora
- `<!-- cluster -->`: the same, with --dry-run added to the commands that would submit jobs
- `<!-- run elsewhere: FILE -->`: a test or CI runs it
- `<!-- not run: WHY -->`: it cannot be run here
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from data_prep.tokenizer import Tokenizer
from retrieva_pretrain.cli import app
from tests.conftest import REPOSITORY, write_corpus
from tests.docs.fences import SHELL, Block, blocks_of

PAGES = [*sorted(REPOSITORY.glob("*.md")), *sorted((REPOSITORY / "docs").rglob("*.md"))]
BLOCKS = [block for page in PAGES for block in blocks_of(page)]
SHELL_BLOCKS = [block for block in BLOCKS if block.language in SHELL]
COMMANDS = [(block, command) for block in SHELL_BLOCKS for command in block.commands]
# README.ja.md shows the very blocks of README.md (test_readme.py).
RUN = [b for b in SHELL_BLOCKS if b.mark in ("run", "cluster") and b.page.name != "README.ja.md"]
# These submit jobs, or start training, unless they are told not to.
SUBMITTING = ("retrieva launch", "retrieva preflight", "retrieva data build")
# These look at a run or a model that would have to be trained first; they are parsed.
NEEDING_A_RUN = ("retrieva status", "retrieva data index")
VARIABLES = re.compile(r"^(?:[A-Z_]+=\S+ )*")


def is_parsed(command: str) -> bool:
    """Whether what would run a command takes it; asserts that it does where it is known."""
    words = shlex.split(VARIABLES.sub("", command.split("\n")[0]))
    if words[0] == "retrieva" or words[:3] == ["python", "-m", "retrieva_pretrain"]:
        parse(words[1:] if words[0] == "retrieva" else words[3:])
    elif words[0] == "torchrun":
        module = words.index("-m")
        assert words[module + 1] == "retrieva_pretrain", command
        assert all(re.fullmatch(r"--(nproc-per-node|nnodes)|\d+", word) for word in words[1:module]), command
        parse(words[module + 2 :])
    elif words[0] == "make":
        targets = [word for word in words[1:] if "=" not in word]
        assert targets
        assert set(targets) <= make_targets(), command
    elif words[:2] == ["pip", "install"]:
        assert set(re.findall(r"\w+", "".join(re.findall(r"\[(.*)\]", words[2])))) <= extras(), command
    elif (words[0] == "python" and len(words) > 1 and words[1].endswith(".py")) or words[0] == "cp":
        assert (REPOSITORY / words[1]).is_file(), command
    elif words[0] == "export":
        assert "=" in words[1]
    elif words[0] == "pre-commit":
        assert words[1:] == ["install"]
    else:
        return False
    return True


@cache
def command_line() -> Any:
    """The whole of `retrieva`; some releases of typer bring a click of their own."""
    return typer.main.get_command(app)


def parse(words: list[str]) -> None:
    """Have typer read the words as `retrieva` would; nothing is run."""
    command: Any = command_line()
    context: Any = None
    while hasattr(command, "commands"):
        found = command.commands.get(words[0]) if words else None
        assert found is not None, f"there is no command {' '.join(words[:1])!r}"
        context = command.context_class(command, info_name=command.name, parent=context)
        command, words = found, words[1:]
    try:
        command.make_context(command.name, list(words), parent=context)
    except Exception as error:
        raise AssertionError(f"{' '.join(words)}: {getattr(error, 'message', error)}") from None


def make_targets() -> set[str]:
    return set(
        re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    )


def extras() -> set[str]:
    text = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    section = text.split("[project.optional-dependencies]")[1].split("\n[")[0]
    return set(re.findall(r"^(\w+) = \[", section, re.MULTILINE))


@pytest.fixture
def folder(tmp_path: Path, small_tokenizer: Tokenizer) -> Path:
    """A folder as a user's: the recipes, the tokenizer under its published name, and corpora of the blend."""
    for name in ("recipes", "slurm", "grid_engine", "local"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    (tmp_path / "tokenizers").mkdir()
    shutil.copy(small_tokenizer.path, tmp_path / "tokenizers" / "llm-jp-tokenizer-100k.ver3.0b1.model")
    if not (tmp_path / "data").exists():
        for name in ("ja_cc", "refinedweb", "zh_wiki", "ko_wiki", "the_stack"):
            write_corpus(tmp_path / "data", name, [[300, 301, 302] * 50] * 40, small_tokenizer)
    shutil.copy(REPOSITORY / "recipes" / "clusters" / "slurm-h100.yaml", tmp_path / "my-cluster.yaml")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, arguments in (("retrieva", "-m retrieva_pretrain"), ("python", "")):
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} {arguments} "$@"\n')
        (programs / name).chmod(0o755)
    return tmp_path


def as_run(block: Block) -> str:
    """The commands of a marked block, as they are run here."""
    lines = []
    for command in block.commands:
        submits = block.mark == "cluster" and command.startswith(SUBMITTING)
        if command.startswith(NEEDING_A_RUN):
            parse(shlex.split(command)[1:])
            continue
        if submits and command.startswith("retrieva data build"):
            command += " 'files=[recipes/demo.yaml]'"  # what it reads is not there, and is not read yet
        lines.append(f"{command} --dry-run" if submits and "--dry-run" not in command else command)
    return "\n".join(lines)


def is_named(mark: str) -> bool:
    """Whether a mark names files that are there and run the block."""
    files = mark.removeprefix("run elsewhere: ").split(", ")
    return all((REPOSITORY / file).is_file() for file in files)


@pytest.mark.parametrize("block", RUN, ids=str)
def test_commands_marked_to_be_run_do_run(block: Block, folder: Path) -> None:
    if "data samples raw" in block.text:  # it builds the corpus itself
        shutil.rmtree(folder / "data")
    if "small.yaml" in block.text:
        shutil.copy(
            folder / "tokenizers" / "llm-jp-tokenizer-100k.ver3.0b1.model", folder / "my-tokenizer.model"
        )
    if "own.yaml" in block.text and "cat > own.yaml" not in block.text:
        first = next(b for b in blocks_of(block.page) if "cat > own.yaml" in b.text)
        (folder / "own.yaml").write_text(first.text.split("<<'EOF'\n")[1].split("\nEOF")[0] + "\n")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", as_run(block)],
        cwd=folder,
        env={**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{block}\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}"


@pytest.mark.parametrize("block", [b for b in SHELL_BLOCKS if b.mark not in ("run", "cluster")], ids=str)
def test_every_other_command_is_one_that_would_be_understood(block: Block) -> None:
    if block.mark.startswith("not run: "):
        assert len(block.mark) > len("not run: ") + 5
    elif block.mark.startswith("run elsewhere: "):
        assert is_named(block.mark), block.mark
        assert all(is_parsed(command) for command in block.commands), str(block)
    else:
        assert block.mark == "", f"{block}: no such mark: {block.mark}"
        for command in block.commands:
            submits = command.startswith(SUBMITTING) and "--cluster" in command and "--dry-run" not in command
            assert not submits, f"{block}: {command!r} needs a cluster; mark the block"
            assert is_parsed(command), f"{block}: nobody checks {command!r}; see the top of this file"


def test_commands_that_need_a_cluster_are_marked_and_never_submit_here() -> None:
    marked = [block for block in RUN if block.mark == "cluster"]
    assert len(marked) >= 3
    for block in marked:
        assert "--cluster" in block.text, str(block)
        for command in as_run(block).splitlines():
            if command.startswith(SUBMITTING) and "--cluster" in command:
                assert "--dry-run" in command


def test_commands_in_the_midst_of_sentences_name_real_commands_and_options() -> None:
    for page in PAGES:
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for inline in re.findall(r"`(retrieva [^`]+)`", text):
            words = inline.split()[1:]
            command: Any = command_line()
            while hasattr(command, "commands") and words and not words[0].startswith("-"):
                assert words[0] in command.commands, f"{page.name}: {inline}"
                command, words = command.commands[words[0]], words[1:]
            options = {name for parameter in command.params for name in parameter.opts} | {
                "--help",
                "--debug",
            }
            for word in words:
                assert not word.startswith("--") or word.split("=")[0] in options, f"{page.name}: {inline}"


def test_no_command_hides_in_an_indented_block() -> None:
    for page in PAGES:
        inside = False
        previous = ""
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
            inside ^= line.lstrip().startswith("```")
            is_code = line.startswith("    ") and not inside and previous.strip() == ""
            assert not (
                is_code and re.match(r" {4}(retrieva|make|pip|torchrun|python|sbatch|qsub) ", line)
            ), f"{page.name}:{number}: put it between ```bash and ```"
            previous = line


def test_a_command_that_does_not_exist_is_found_out() -> None:
    for wrong in (
        "retrieva plann recipes/demo.yaml",
        "retrieva plan recipes/demo.yaml --gpu 8",
        "retrieva plan",
        "retrieva export runs/x",
        "retrieva data build --output data",
        "make demonstration",
        "pip install '.[everything]'",
        "cp recipes/clusters/pbs.yaml mine.yaml",
    ):
        with pytest.raises(AssertionError):
            is_parsed(wrong)
    assert not is_parsed("curl https://example.org")


def test_commands_in_the_help_of_commands_are_understood() -> None:
    found = 0
    for path in sorted((REPOSITORY / "retrieva_pretrain" / "cli").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            text = ast.get_docstring(node) if isinstance(node, ast.FunctionDef) else None
            for example in re.findall(r"Example: ((?:.+\n?)+)", text or ""):
                command = " ".join(example.split())
                assert is_parsed(command), command
                found += 1
    assert found > 10
