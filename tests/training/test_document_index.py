"""A run over a corpus so large that its order is kept in files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from data_prep.tokenizer import Tokenizer
from retrieva_pretrain.data.training_documents import IN_MEMORY_DOCUMENTS
from tests.conftest import write_large_corpus

if TYPE_CHECKING:
    from tests.training.conftest import World

pytestmark = pytest.mark.engine
SHORT = [f"curriculum.{stage}.train_iters=1" for stage in range(4)]


@pytest.fixture
def large(world: World, small_tokenizer: Tokenizer) -> Path:
    """A corpus with one document more than is worked out in memory."""
    prefix = world.folder / "data" / "large"
    write_large_corpus(prefix, small_tokenizer, IN_MEMORY_DOCUMENTS + 1)
    return prefix


@pytest.mark.slow
def test_one_process_of_a_run_makes_the_index_and_a_restart_finds_it(world: World, large: Path) -> None:
    overrides = [*SHORT, f"data.blend.0.path={large}"]
    world.train(*overrides, processes=2)
    files = {path: path.stat().st_mtime_ns for path in large.parent.glob("large.*.index")}
    assert [path.name.split(".")[1] for path in sorted(files)] == ["epoch0", "training"]
    log = (world.folder / "train-0.log").read_text()
    assert log.count("order of epoch 0: indexed in") == 1
    losses = [r["loss"] for r in world.metrics() if r["kind"] == "train"]
    # Made anew, in another folder and by one process, it is the same.
    folder = world.folder / "indexes"
    again = world.losses(*overrides, "name=again", f"data.index_dir={folder}", processes=2)
    assert again == losses
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in files
    }
    assert {path: path.stat().st_mtime_ns for path in files} == files


@pytest.mark.slow
def test_a_run_that_cannot_write_its_index_is_refused_in_one_message(world: World, large: Path) -> None:
    overrides = [f"data.blend.0.path={large}"]
    if os.geteuid() == 0:
        overrides.append("data.index_dir=/proc")  # the only folder that root may not write to
    else:
        large.parent.chmod(0o555)
    process = world.start(*overrides, processes=2)
    try:
        assert process.wait(timeout=600) != 0
    finally:
        large.parent.chmod(0o755)
    log = Path(world.folder / "train.log").read_text()
    assert log.count("retrieva: data.index_dir: ") == 1
