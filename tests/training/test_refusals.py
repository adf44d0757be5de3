"""What cannot be right is refused before anything is written, in one message with the way out."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.training.conftest import World

SHORT = [f"curriculum.{stage}.train_iters=2" for stage in range(4)]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model.num_layerz=3", "did you mean num_layers?"),
        ("model.hidden_size=33", "hidden_size: 33 is not divisible by num_attention_heads 4"),
        ("curriculum.3.seq_length=128", "max_position_embeddings"),
        ("data.blend.0.path=nowhere/corpus", "there is no corpus nowhere/corpus"),
        ("tokenizer.model=nowhere.model", "nowhere.model"),
        ("runs_dir=5", "runs_dir"),
    ],
)
def test_a_wrong_recipe_is_refused_and_leaves_nothing(world: World, override: str, expected: str) -> None:
    before = contents(world.folder)
    assert expected in world.refused(override)
    assert contents(world.folder) == before


def test_an_index_that_does_not_match_its_data_is_refused(world: World) -> None:
    data = world.folder / "data"
    shutil.copy(data / "b.idx", data / "a.idx")
    message = world.refused()
    assert "data.blend.0.path" in message
    assert "a.idx" in message
    assert not (world.folder / "runs").exists()


def test_a_tokenizer_that_did_not_make_the_corpus_is_refused(world: World, llm_jp_model: Path) -> None:
    message = world.refused(f"tokenizer.model={llm_jp_model}")
    assert "was made with the tokenizer" in message
    assert not (world.folder / "runs").exists()


@pytest.mark.engine
def test_a_checkpoint_of_another_recipe_is_refused_with_the_fields_that_differ(world: World) -> None:
    world.train(*SHORT, "model.num_layers=1", processes=1)
    run = world.folder / "runs" / "small"
    before = contents(run)
    message = world.refused(*SHORT, "model.num_layers=2", "optimizer.lr=1e-3")
    assert "model.num_layers: 1 -> 2" in message
    assert "optimizer.lr: 0.003 -> 0.001" in message
    assert contents(run) == before
    # What may change at a restart may change: a finished run is found finished.
    world.train(*SHORT, "model.num_layers=1", "curriculum.0.max_micro_batch_size=1", processes=1)


def test_a_number_of_processes_that_does_not_divide_the_batch_is_refused(world: World) -> None:
    process = world.start(processes=3)
    assert process.wait(timeout=600) == 1
    log = (world.folder / "train.log").read_text()
    assert "cannot run on 3 GPUs" in log
    assert "global_batch_size 8" in log
    assert not (world.folder / "runs").exists()
