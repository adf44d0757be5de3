"""Checkpoints are whole or absent."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from retrieva_pretrain.training.run_folder import RunFolder, find_damage

if TYPE_CHECKING:
    from tests.training.conftest import World

pytestmark = pytest.mark.engine

SHORT = [f"curriculum.{stage}.train_iters=2" for stage in range(4)]


def test_a_damaged_checkpoint_is_passed_over_and_the_run_goes_on_from_the_one_before(world: World) -> None:
    first = [r["loss"] for r in world.train(*SHORT, processes=1) if r["kind"] == "train"]
    checkpoints = world.folder / "runs" / "small" / "checkpoints"
    names = sorted(p.name for p in checkpoints.glob("step_*"))
    # Saved every three steps and at the end of each stage; three are kept.
    assert names == ["step_0000004", "step_0000006", "step_0000008"]
    assert (checkpoints / "latest").read_text() == "step_0000008\n"
    newest = checkpoints / "step_0000008"
    assert find_damage(newest) is None
    shard = next(newest.glob("*.distcp"))
    shard.write_bytes(shard.read_bytes()[:-1])
    (checkpoints / ".step_0000009.partial").mkdir()

    assert RunFolder(checkpoints.parent).newest_checkpoint() == checkpoints / "step_0000006"
    records = world.train(*SHORT, processes=1)
    assert [r["step"] for r in records if r["kind"] == "start"] == [0, 6]
    assert [r["loss"] for r in records if r["kind"] == "train"] == first
    assert find_damage(newest) is None
    assert not list(checkpoints.glob(".step_*"))


def test_what_is_not_a_checkpoint_is_neither_resumed_from_nor_counted(world: World) -> None:
    folder = RunFolder(world.folder)
    for name in ("step_0000003", "step_0000009.bak", "step_12345678"):
        (folder.checkpoints / name).mkdir(parents=True)
    assert sorted(folder.checkpoint_folders()) == [
        (3, folder.checkpoint(3)),
        (12345678, folder.checkpoint(12345678)),
    ]


def test_a_save_before_a_damaged_later_checkpoint_keeps_what_it_saved(world: World) -> None:
    world.train(*SHORT, "checkpoint.keep=1", processes=1)
    checkpoints = world.folder / "runs" / "small" / "checkpoints"
    (checkpoints / "step_0000008" / "checkpoint.json").unlink()
    (checkpoints / "step_0000099").mkdir()
    world.train(*SHORT, "checkpoint.keep=1", "checkpoint.save_interval=1", processes=1)
    assert [p.name for p in checkpoints.glob("step_*")] == ["step_0000008"]
    assert find_damage(checkpoints / "step_0000008") is None


def test_the_newest_step_counts_not_the_text_of_latest(world: World) -> None:
    """A kill between the rename and `latest` must not lose a checkpoint."""
    folder = RunFolder(world.folder)
    for step in (3, 10):
        folder.checkpoint(step).mkdir(parents=True)
        (folder.checkpoint(step) / "checkpoint.json").write_text(
            json.dumps({"step": step, "files": {}, "identity": {}})
        )
    (folder.checkpoints / "latest").write_text("step_0000003\n")
    newest = folder.newest_checkpoint()
    assert newest is not None
    assert newest.name == "step_0000010"
