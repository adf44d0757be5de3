"""Runs with a checkpoint, and an export of one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.tokenizer import Tokenizer
from retrieva_pretrain.launch.torchrun import free_port
from tests.command import retrieva

REPOSITORY = Path(__file__).resolve().parent.parent.parent

# The vocabulary of 400 pieces is padded to 448 rows.
RECIPE = """
name: {name}
seed: 7
runs_dir: {folder}
model: {{num_layers: 4, hidden_size: 32, ffn_hidden_size: 48, num_attention_heads: 4, num_query_groups: 2,
        max_position_embeddings: 80, layernorm_epsilon: 1.0e-12, hidden_dropout: 0.1, attention_dropout: 0.1}}
tokenizer: {{model: {tokenizer}, make_vocab_size_divisible_by: 64}}
data: {{blend: [{{path: data/ja, weight: 0.7}}, {{path: data/en, weight: 0.3}}]}}
optimizer: {{lr: 3.0e-3, min_lr: 1.0e-5, lr_warmup_fraction: 0.1}}
precision: bf16
global_batch_size: 8
curriculum:
  - {{seq_length: 16, train_iters: 2, max_micro_batch_size: 4}}
  - {{seq_length: 64, train_iters: 4, max_micro_batch_size: 4}}
"""

SaveRun = Callable[..., Path]
Retrieva = Callable[..., subprocess.CompletedProcess[str]]


def refused(*arguments: str | Path) -> str:
    """Run a command that must be refused, and return its one message."""
    done = retrieva(*arguments, code=1)
    assert "Traceback" not in done.stderr
    assert done.stderr.count("retrieva: ") == 1
    return done.stderr


@pytest.fixture(scope="session")
def save_run(tmp_path_factory: pytest.TempPathFactory, small_tokenizer: Tokenizer) -> SaveRun:
    """Makes a run with one checkpoint of drawn weights and non-zero, different biases; returns its folder."""

    def save(name: str, *overrides: str, processes: int = 1) -> Path:
        folder = tmp_path_factory.mktemp(name)
        recipe = folder / "recipe.yaml"
        recipe.write_text(
            RECIPE.format(name=name, folder=folder, tokenizer=small_tokenizer.path), encoding="utf-8"
        )
        launcher = []
        if processes > 1:
            launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
            launcher += ["--master-addr=127.0.0.1", f"--master-port={free_port()}"]
        done = subprocess.run(
            [
                sys.executable,
                *launcher,
                str(Path(__file__).with_name("saved_run.py")),
                str(recipe),
                *overrides,
            ],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return folder / name

    return save


@pytest.fixture(scope="session")
def saved(save_run: SaveRun) -> Path:
    """A run with grouped queries, tied embeddings and a padded vocabulary."""
    return save_run("small")


@pytest.fixture(scope="session")
def exported(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its export."""
    out = tmp_path_factory.mktemp("exported") / "small-hf"
    done = retrieva("export", saved, out)
    assert "differ by at most" in done.stdout
    return out
