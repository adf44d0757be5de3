"""A process that hangs or dies takes the others with it, in time and with their stacks in the log."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
from typing import TYPE_CHECKING

import psutil
import pytest

from retrieva_pretrain.launch.torchrun import kill_tree

if TYPE_CHECKING:
    from tests.training.conftest import World

pytestmark = pytest.mark.engine

LONG = [f"curriculum.{stage}.train_iters=2000" for stage in range(4)]


def begin(
    world: World, *overrides: str, processes: int = 2
) -> tuple[subprocess.Popen[bytes], list[psutil.Process]]:
    """Start a long training and wait until it takes steps; returns torchrun and its workers, by rank."""
    process = world.start(*LONG, "checkpoint.save_interval=100000", *overrides, processes=processes)
    world.wait_until("a step", lambda: world.has_taken(3), process)
    workers = [w for w in psutil.Process(process.pid).children() if w.environ().get("RANK")]
    return process, sorted(workers, key=lambda worker: int(worker.environ()["RANK"]))


def gone(workers: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(workers, timeout=120)[1]


@pytest.mark.slow
def test_a_process_that_hangs_ends_the_others_with_their_stacks(world: World) -> None:
    process, workers = begin(world, "faults.step_timeout=15")
    hanging = random.choice([0, 1])
    try:
        workers[hanging].send_signal(signal.SIGSTOP)
        other = workers[1 - hanging]
        other.wait(timeout=300)
        log = (world.folder / "train.log").read_text()
        assert f"process {1 - hanging} made no progress for" in log
        assert "faults.step_timeout allows 15 s" in log
        # The stacks of all threads, the one that waits in the step among them.
        assert "Current thread" in log or "Thread 0x" in log
        assert "in train_step" in log
        assert f"process {hanging} was last heard of" in log
        ended = json.loads((world.folder / "runs" / "small" / "exit.json").read_text())
        assert (ended["reason"], ended["code"]) == ("hung", 1)
        # torchrun asks the stopped one to leave, which it cannot, and kills it half a minute later.
        assert process.wait(timeout=300) == 1
        assert gone(workers)
    finally:
        kill_tree(process)


@pytest.mark.slow
def test_a_process_that_dies_ends_the_others_at_once(world: World) -> None:
    process, workers = begin(world, "global_batch_size=6", processes=3)
    try:
        os.kill(random.choice(workers).pid, signal.SIGKILL)
        assert process.wait(timeout=300) == 1
        assert gone(workers)
        # What was saved before is whole: the run goes on.
        again = world.start(*LONG, "global_batch_size=6", processes=3, log="again.log")
        try:
            world.wait_until(
                "a step", lambda: "step " in (world.folder / "again.log").read_text(), again, "again.log"
            )
        finally:
            kill_tree(again)
    finally:
        kill_tree(process)


def test_a_fault_of_one_process_is_told_first_and_once(world: World) -> None:
    """Only the second process reads the damaged place: the first one has other samples."""
    damaged = world.folder / "data" / "a.bin"
    content = bytearray(damaged.read_bytes())
    # Ids outside the vocabulary in the middle of the corpus; ends of documents and sizes stay as they are.
    middle = len(content) // 2 // 2 * 2
    content[middle : middle + 2] = (65_000).to_bytes(2, "little")
    damaged.write_bytes(bytes(content))
    process = world.start("data.held_out_fraction=0", processes=2)
    assert process.wait(timeout=600) == 1
    log = (world.folder / "train.log").read_text()
    assert log.count("holds token ids outside") == 1
    assert log.index("holds token ids outside") < (log + "Traceback").index("Traceback")
    ended = json.loads((world.folder / "runs" / "small" / "exit.json").read_text())
    assert ended["reason"] == "failed"
    assert "holds token ids outside" in ended["message"]
