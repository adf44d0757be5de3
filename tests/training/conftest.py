"""A small world to train in: two corpora, a recipe of four stages, and real torchrun processes."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from data_prep.tokenizer import Tokenizer
from retrieva_pretrain.launch.torchrun import start, torchrun_command
from retrieva_pretrain.report.metrics import read_metrics
from tests.command import retrieva
from tests.waiting import PATIENCE, wait_until

RECIPE = """
name: small
seed: 7
runs_dir: {folder}/runs
model: {{num_layers: 2, hidden_size: 32, ffn_hidden_size: 48, num_attention_heads: 4, num_query_groups: 1,
        max_position_embeddings: 64, layernorm_epsilon: 1.0e-12, hidden_dropout: 0.1, attention_dropout: 0.1}}
tokenizer: {{model: {tokenizer}, make_vocab_size_divisible_by: 64}}
data:
  blend:
    - {{path: {folder}/data/a, weight: 0.7}}
    - {{path: {folder}/data/b, weight: 0.3}}
  held_out_fraction: 0.05
optimizer: {{lr: 3.0e-3, min_lr: 1.0e-5, lr_warmup_fraction: 0.1}}
precision: bf16
global_batch_size: 8
curriculum:
  - {{seq_length: 16, train_iters: 6, max_micro_batch_size: 4}}
  - {{seq_length: 24, train_iters: 8, max_micro_batch_size: 2}}
  - {{seq_length: 32, train_iters: 6, max_micro_batch_size: 4}}
  - {{seq_length: 64, train_iters: 4, max_micro_batch_size: 1}}
checkpoint: {{save_interval: 3, keep: 3}}
evaluation: {{eval_interval: 100, samples_per_corpus: 4}}
logging: {{tensorboard: false}}
"""


@dataclass
class World:
    """A folder with corpora and a recipe, in which runs are made."""

    folder: Path
    recipe: Path

    def start(self, *overrides: str, processes: int = 2, log: str = "train.log") -> subprocess.Popen[bytes]:
        command = torchrun_command(self.recipe, overrides, processes=processes)
        return start(command, output=self.folder / log)

    def train(self, *overrides: str, processes: int = 2) -> list[dict[str, Any]]:
        """Train to the end under torchrun and return the run's metrics."""
        log = f"train-{len(list(self.folder.glob('train-*')))}.log"
        process = self.start(*overrides, processes=processes, log=log)
        assert process.wait(timeout=PATIENCE) == 0, (self.folder / log).read_text()[-4000:]
        return self.metrics(next((o[5:] for o in overrides if o.startswith("name=")), "small"))

    def wait_until(
        self, what: str, is_so: Callable[[], bool], process: subprocess.Popen[bytes], log: str = "train.log"
    ) -> None:
        """Wait until something is so of a training that runs; fail with its log where it ends before."""

        def came() -> bool:
            if is_so():
                return True
            assert process.poll() is None, (self.folder / log).read_text()[-3000:]
            return False

        wait_until(what, came, look_every=0.02)

    def has_taken(self, step: int, name: str = "small") -> bool:
        """Whether a run has recorded a step."""
        path = self.folder / "runs" / name / "metrics.jsonl"
        return path.exists() and f'"kind": "train", "step": {step},' in path.read_text()

    def metrics(self, name: str = "small") -> list[dict[str, Any]]:
        return read_metrics(self.folder / "runs" / name / "metrics.jsonl")

    def losses(self, *overrides: str, processes: int) -> list[float]:
        """Train to the end and return the losses of all steps in order."""
        return [r["loss"] for r in self.train(*overrides, processes=processes) if r["kind"] == "train"]

    def refused(self, *overrides: str) -> str:
        """Start a training that must be refused, in one process; return its message."""
        done = retrieva("train", self.recipe, *overrides, code=1)
        assert "Traceback" not in done.stderr
        return done.stderr


@pytest.fixture
def world(tmp_path: Path, make_corpus: Callable[..., Path], small_tokenizer: Tokenizer) -> World:
    """Two corpora of invented text and the recipe over them."""
    draw = random.Random(1)
    ordinary = [i for i in range(small_tokenizer.vocab_size) if i not in small_tokenizer.special_ids]
    for name, documents in (("a", 120), ("b", 60)):
        make_corpus(
            tmp_path / "data",
            name,
            [draw.choices(ordinary[200:300], k=draw.randint(5, 90)) for _ in range(documents)],
        )
    recipe = tmp_path / "small.yaml"
    recipe.write_text(RECIPE.format(folder=tmp_path, tokenizer=small_tokenizer.path), encoding="utf-8")
    return World(tmp_path, recipe)
