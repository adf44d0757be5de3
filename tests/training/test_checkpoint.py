"""Checkpoints are whole or absent, and a run goes on from the newest whole one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from retrieva_pretrain.launch.torchrun import ON_THIS_MACHINE, kill_tree
from retrieva_pretrain.training.checkpoint_files import find_corruption, find_damage, share_of_files
from retrieva_pretrain.training.run_folder import RunFolder

if TYPE_CHECKING:
    from tests.training.conftest import World

pytestmark = pytest.mark.engine

SHORT = [f"curriculum.{stage}.train_iters=2" for stage in range(4)]


def is_whole(path: Path) -> bool:
    return find_damage(path) is None and find_corruption(path, share_of_files(path, 0, 1)) is None


def log_of(world: World) -> str:
    return "".join(path.read_text() for path in sorted(world.folder.glob("train*.log")))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here: that takes the rights of root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_checkpoint_with_a_flipped_bit_is_passed_over_loudly(world: World) -> None:
    first = world.train(*SHORT, processes=1)
    folder = RunFolder(world.folder / "runs" / "small")
    checkpoints = folder.checkpoints
    # Saved every three steps and at the end of each stage; three are kept, and the last of each stage.
    assert sorted(step for step, _ in folder.checkpoint_folders()) == [2, 4, 6, 8]
    assert (checkpoints / "latest").read_text() == "step_0000008\n"
    for record in (r for r in first if r["kind"] == "checkpoint"):
        assert 0 < record["stall_seconds"] <= record["seconds"] + 1e-3, record
    newest = folder.checkpoint(8)
    assert is_whole(newest)
    shard = max(newest.glob("*.distcp"), key=lambda p: p.stat().st_size)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    (checkpoints / ".step_0000009.1234abcd.partial").mkdir()

    records = world.train(*SHORT, processes=1)
    assert [r["step"] for r in records if r["kind"] == "start"] == [0, 6]
    losses = [[r["loss"] for r in run if r["kind"] == "train"] for run in (first, records)]
    assert losses[0] == losses[1]
    assert f"{shard.name} is not what was written" in log_of(world)
    assert is_whole(newest)
    # The damaged one was set aside until a whole one of its step was there.
    names = sorted(p.name for p in checkpoints.iterdir())
    assert names == ["latest", *(f"step_{step:07d}" for step in (2, 4, 6, 8))]


def test_a_full_disk_is_told_and_the_run_goes_on_and_saves_when_there_is_room(
    world: World, small_disk: Path
) -> None:
    run = world.folder / "runs" / "small"
    run.mkdir(parents=True)
    (run / "checkpoints").symlink_to(small_disk)
    filler = small_disk / "filler"
    filler.write_bytes(bytes(2_700_000))

    def make_room() -> None:
        while "checkpoint_failed" not in (run / "metrics.jsonl").read_text() if run.exists() else True:
            time.sleep(0.05)
        filler.unlink()

    (run / "metrics.jsonl").touch()
    thread = threading.Thread(target=make_room, daemon=True)
    thread.start()
    records = world.train("checkpoint.keep=1", "curriculum.0.train_iters=2", processes=2)
    log = log_of(world)
    failed = [r for r in records if r["kind"] == "checkpoint_failed"]
    assert failed
    assert "could NOT be saved" in log
    assert "No space left on device" in log
    saved = [r["step"] for r in records if r["kind"] == "checkpoint"]
    assert saved[0] == 2
    assert max(saved) == 20, "the last step"
    folder = RunFolder(run)
    for _, path in folder.checkpoint_folders():
        assert is_whole(path)
    assert not list(folder.checkpoints.glob(".step_*"))


@pytest.mark.slow
def test_a_save_that_fails_at_the_end_of_the_run_ends_it_with_an_error(
    world: World, small_disk: Path
) -> None:
    run = world.folder / "runs" / "small"
    run.mkdir(parents=True)
    (run / "checkpoints").symlink_to(small_disk)
    (small_disk / "filler").write_bytes(bytes(2_700_000))
    process = world.start(*SHORT, processes=2)
    assert process.wait(timeout=300) == 1
    log = log_of(world)
    assert "the last checkpoint could not be saved" in log
    assert "No space left on device" in log
    assert "The newest whole one is step_0000002." in log
    assert log.count("trying to save again") == 3
    newest = RunFolder(run).newest_checkpoint()
    assert newest is not None
    assert newest.name == "step_0000002"
    assert is_whole(newest)


@pytest.mark.slow
def test_saves_on_a_disk_that_fills_at_any_byte_fail_on_all_processes_and_hundreds_succeed(
    world: World, small_disk: Path
) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command += ON_THIS_MACHINE
    command += [str(Path(__file__).with_name("save_storm.py")), str(world.recipe), str(small_disk)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    told = json.loads((small_disk / "told.json").read_text())
    outcomes = [told["saved"][str(free)] for free in told["free"]]
    assert not any(outcomes[:5])
    assert outcomes[-1]
    assert outcomes == sorted(outcomes), "more room cannot make a save fail"
    assert told["whole"] == 200
    assert told["children"] == []


@pytest.mark.slow
def test_a_run_killed_in_the_midst_of_saves_goes_on_to_the_bit(world: World) -> None:
    settings = ("checkpoint.save_interval=1", "checkpoint.keep=2", "curriculum.0.train_iters=30")
    undisturbed = {
        r["step"]: r["loss"] for r in world.train("name=undisturbed", *settings) if r["kind"] == "train"
    }
    checkpoints = world.folder / "runs" / "killed" / "checkpoints"
    process = world.start("name=killed", *settings)
    caught, seen = 0, set()
    while caught < 5:
        assert process.poll() is None, log_of(world)[-4000:]
        fresh = [p.name for p in checkpoints.glob(".step_*.partial") if p.name not in seen]
        if not fresh or len(seen) < 2 * caught:
            seen.update(fresh)
            time.sleep(0.001)
            continue
        seen.update(fresh)
        kill_tree(process)
        caught += 1
        for path, damage in RunFolder(checkpoints.parent).checkpoints_by_age():
            assert damage is None, (path, damage)
            assert is_whole(path)
        process = world.start("name=killed", *settings)
    assert process.wait(timeout=300) == 0, log_of(world)[-4000:]
    records = world.metrics("killed")
    assert {r["step"]: r["loss"] for r in records if r["kind"] == "train"} == undisturbed
    assert not list(checkpoints.glob(".step_*"))
    assert "is damaged" not in log_of(world)


def test_a_second_training_of_a_run_is_refused_with_the_process_that_is_at_work(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from retrieva_pretrain.errors import CheckpointError\n"
        "from retrieva_pretrain.training.run_folder import RunFolder\n"
        "from retrieva_pretrain.training.run_lock import hold_run\n"
        "try:\n"
        "    with hold_run(RunFolder(Path(sys.argv[1]))):\n"
        "        print('held', flush=True)\n"
        "        sys.stdin.read()\n"
        "except CheckpointError as refusal:\n"
        "    sys.exit(str(refusal))\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "run")]

    def start(rank: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "RANK": rank}
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    first, other_rank = start("0"), start("1")
    for process in (first, other_rank):
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
    second = start("0")
    _, message = second.communicate()
    assert second.returncode == 1
    assert f"process {first.pid} on " in message
    first.kill()
    first.wait()
    third = start("0")
    assert third.stdout is not None
    assert third.stdout.readline() == "held\n", "a killed run must leave no refusal behind"
    for process in (third, other_rank):
        process.communicate()
