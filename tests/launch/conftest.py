"""A small corpus that jobs can build, and a recipe whose training is a stand-in's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.corpus import CorpusConfig, TokenizerConfig
from data_prep.tokenizer import Tokenizer
from retrieva_pretrain.launch.snapshot import PROGRAM
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe


@pytest.fixture
def corpus(tmp_path: Path, small_tokenizer: Tokenizer) -> CorpusConfig:
    raw = tmp_path / "raw"
    raw.mkdir()
    for number in range(7):
        texts = [f"あいう {number} かきく {line} abc" for line in range(30 + number)]
        (raw / f"{number}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return CorpusConfig(
        name="small",
        source="jsonl",
        files=[f"{raw}/*.jsonl"],
        tokenizer=TokenizerConfig(model=str(small_tokenizer.path)),
    )


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts a training without torch in the place of the code's snapshot, see `stand_in.py`."""

    def snapshot(folder: Path) -> Path:
        folder.mkdir(parents=True)
        return Path(shutil.copy(Path(__file__).parent / "stand_in.py", folder / PROGRAM))

    monkeypatch.setattr("retrieva_pretrain.launch.train.snapshot_code", snapshot)


@pytest.fixture
def small_recipe(tmp_path: Path) -> Callable[..., Recipe]:
    """Returns a recipe of one stage whose run lies in the test's own folder."""

    def make(name: str = "small", steps: int = 40) -> Recipe:
        stage = f"curriculum=[{{seq_length: 32, train_iters: {steps}, max_micro_batch_size: 8}}]"
        file = Path(__file__).parents[1] / "recipe" / "small.yaml"
        return load_yaml(Recipe, file, [f"name={name}", f"runs_dir={tmp_path}/runs", stage])

    return make
