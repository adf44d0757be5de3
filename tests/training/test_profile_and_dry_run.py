"""`--profile` changes no number of a run; `--dry-run` needs no corpora and keeps nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.training.conftest import World

pytestmark = pytest.mark.engine
SHORT = ["curriculum=[{seq_length: 16, train_iters: 4, max_micro_batch_size: 4}]"]


@pytest.mark.slow
def test_a_trace_of_chosen_steps_is_written_and_the_losses_stay_the_same(world: World) -> None:
    expected = world.losses(*SHORT, "name=plain", "data.prefetch_micro_batches=0", processes=1)
    found = world.losses(*SHORT, "name=profiled", "--profile", "2-3", processes=1)
    assert found == expected
    trace = json.loads((world.folder / "runs" / "profiled" / "profile" / "steps_2-3.json").read_text())
    assert any("mm" in event.get("name", "") for event in trace["traceEvents"])
    logs = "".join(file.read_text() for file in world.folder.glob("train-*.log"))
    assert "trace of steps 2 to 3: " in logs
    assert not (world.folder / "runs" / "plain" / "profile").exists()


def test_a_dry_run_takes_a_step_of_every_stage_without_corpora_and_keeps_nothing(world: World) -> None:
    shutil.rmtree(world.folder / "data")
    process = world.start(
        "--dry-run", "parallelism.tensor_model_parallel_size=2", "data.reset_position_ids=true", log="dry.log"
    )
    assert process.wait(timeout=600) == 0, (world.folder / "dry.log").read_text()
    log = (world.folder / "dry.log").read_text()
    for length in (16, 24, 32, 64):
        assert f"length {length}, " in log
    assert "33,024 parameters, 18,320 of them on this process" in log and "GiB" in log
    assert sorted(path.name for path in world.folder.iterdir()) == ["dry.log", "small.yaml"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--dry-run", "tokenizer.model=nowhere.model"], "tokenizer.model: nowhere.model"),
        (["--dry-run", "--profile", "1"], "--dry-run takes neither"),
        (["--profile", "23-25"], "from 1 to the run's last, 24"),
        (["--profile", "3-2"], "--profile 3-2"),
        (["--profile", "ten"], "--profile ten"),
    ],
)
def test_what_cannot_be_profiled_or_tried_out_is_refused(
    world: World, arguments: list[str], expected: str
) -> None:
    assert expected in world.refused(*arguments)
    assert not Path(world.folder / "runs").exists()
