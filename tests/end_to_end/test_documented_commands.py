"""The commands of README and docs that train, export, evaluate and look at a run, in order, on a model that is small.

What is replaced is what no test can have: the sizes of the recipes, the corpora behind /data, and a model of the Hub.
Blocks that `tests/docs/test_commands.py` runs by their marks are left to it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep.tokenizer import Tokenizer
from tests.conftest import REPOSITORY
from tests.docs.fences import SHELL, blocks_of
from tests.evaluation.conftest import encoder, jglue  # noqa: F401 (fixtures)

pytestmark = [pytest.mark.slow, pytest.mark.engine]
PAGES = ("docs/corpora.md", "README.md", "docs/data-preparation.md", "docs/planning.md", "docs/monitoring.md",
         "docs/exporting.md", "docs/evaluating.md", "docs/publishing.md", "docs/report.md", "docs/launching.md")  # fmt: skip
OURS = ("retrieva ", "torchrun ")
RECIPE = """
runs_dir: runs
model: {num_layers: 1, hidden_size: 32, ffn_hidden_size: 48, num_attention_heads: 2, num_query_groups: 1, max_position_embeddings: 64}
tokenizer: {model: tokenizers/llm-jp-tokenizer-100k.ver3.0b1.model}
data:
  blend: [{path: data/ja_cc}, {path: data/refinedweb}, {path: data/zh_wiki}, {path: data/ko_wiki}, {path: data/the_stack}]
  held_out_fraction: 0.05
optimizer: {lr: 1.0e-3}
precision: fp32
global_batch_size: 32
curriculum: [{seq_length: 32, train_iters: 8, max_micro_batch_size: 8}, {seq_length: 64, train_iters: 6, max_micro_batch_size: 8}]
checkpoint: {save_interval: 8, keep: 9}
evaluation: {eval_interval: 8, samples_per_corpus: 4}
logging: {log_interval: 4}
"""
TRIAL = "--lr 1e-3 --epochs 1 --max-steps 2 --max-examples 24 --batch-size 8"


@pytest.fixture
def folder(tmp_path: Path, small_tokenizer: Tokenizer, jglue: Path, encoder: Path) -> Path:  # noqa: F811
    """A folder as a user's, with small things under the names that the docs use."""
    shutil.copytree(REPOSITORY / "recipes", tmp_path / "recipes")
    for name in ("slurm", "grid_engine", "local"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    for name in ("demo", "retrievabert-1.3b"):
        (tmp_path / "recipes" / f"{name}.yaml").write_text(f"name: {name}\n{RECIPE}", encoding="utf-8")
    for file in (tmp_path / "recipes" / "corpora").glob("*.yaml"):
        file.write_text(at_home(file.read_text(encoding="utf-8"), tmp_path), encoding="utf-8")
    (tmp_path / "tokenizers").mkdir()
    shutil.copy(small_tokenizer.path, tmp_path / "tokenizers" / "llm-jp-tokenizer-100k.ver3.0b1.model")
    (tmp_path / "JGLUE").mkdir()
    (tmp_path / "JGLUE" / "datasets").symlink_to(jglue)
    (tmp_path / "tohoku-nlp").mkdir()
    (tmp_path / "tohoku-nlp" / "bert-base-japanese-v3").symlink_to(encoder)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, module in (("retrieva", "retrieva_pretrain"), ("torchrun", "torch.distributed.run")):
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
        (programs / name).chmod(0o755)
    run("retrieva data samples raw", tmp_path)
    disk = tmp_path / "disk"
    for place, source in {
        "ja_cc": "ja_cc",
        "llm-jp-corpus-v2/ja_cc": "ja_cc",
        "falcon-refinedweb/data": "refinedweb",
        "the-stack": "the_stack",
    }.items():
        (disk / place).parent.mkdir(parents=True, exist_ok=True)
        (disk / place).symlink_to(tmp_path / "raw" / source)
    (disk / "wikipedia").mkdir()
    for dump in (tmp_path / "raw").glob("*_wiki/*"):
        (disk / "wikipedia" / dump.name).symlink_to(dump)
    return tmp_path


def at_home(text: str, folder: Path) -> str:
    return text.replace("/data/", f"{folder / 'disk'}/", 1)


def as_run(command: str, folder: Path, number: int) -> str:
    """A command of the docs with the stand-ins filled in, as a reader would."""
    for placeholder, value in {
        "RECIPE": "recipes/retrievabert-1.3b.yaml",
        "runs/NAME": "runs/retrievabert-1.3b",
        "OUT": "out",
        "tokenizer.model=PATH": "tokenizer.model=tokenizers/llm-jp-tokenizer-100k.ver3.0b1.model",
        "--step 300000": "--step 8",
    }.items():
        command = command.replace(placeholder, value)
    if "data build" in command:
        command = at_home(command, folder)
    if command.startswith("retrieva evaluate"):
        command += f" {TRIAL}"
    if command.startswith("retrieva train"):  # each a run of its own: the one before is done
        command += f" name=run-{number}"
    return command


def make_way(command: str, folder: Path) -> None:
    """Remove what an earlier page has made, where a command makes it anew; and make what is taken for granted."""
    words = shlex.split(command)
    if words[1:3] == ["data", "build"]:
        for path in (folder / "data").glob("*"):
            if any(path.name.startswith(Path(word).stem) for word in words if word.endswith(".yaml")):
                path.unlink() if path.is_file() else shutil.rmtree(path)
    if words[1] in ("export", "import"):
        shutil.rmtree(folder / words[3], ignore_errors=True)
    if words[1] == "evaluate" and not (folder / "exported").exists():
        shutil.copytree(folder / "retrievabert-1.3b-hf", folder / "exported")
    if words[1] == "report":
        for name in ("first", "second"):
            shutil.copytree(folder / "runs" / "retrievabert-1.3b", folder / "runs" / name, dirs_exist_ok=True)


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env={
            **os.environ,
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(REPOSITORY),
            "OMP_NUM_THREADS": "1",
            "WANDB_MODE": "offline",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )


def test_every_command_that_the_docs_show_of_a_run_works_on_a_small_one(folder: Path) -> None:
    done = 0
    for page in PAGES:
        for block in blocks_of(REPOSITORY / page):
            if block.language not in SHELL or block.mark:
                continue
            for command in block.commands:
                if not command.startswith(OURS):
                    continue
                shown = as_run(command, folder, done)
                make_way(shown, folder)
                ended = run(shown, folder)
                assert ended.returncode == 0, (
                    f"{block}\n{shown}\n{ended.stdout[-2000:]}\n{ended.stderr[:6000]}"
                )
                done += 1
    assert done > 35
    assert (folder / "runs" / "retrievabert-1.3b" / "report.html").is_file()
    card = (folder / "retrievabert-1.3b-public" / "README.md").read_text(encoding="utf-8")
    assert "| retrievabert-1.3b-hf |" in card
