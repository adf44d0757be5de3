"""After a failure no rank waits for the others: they may sit in a collective that will never end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from retrieva_pretrain.launch.torchrun import ON_THIS_MACHINE
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.engine

# Rank 1 sits in a collective that rank 0 never joins, as after an exception on one rank.
ONE_RAISES = """
import sys, time
from datetime import timedelta
from pathlib import Path
import torch
import torch.distributed as dist
from retrieva_pretrain.training.distributed import leave_after_failure

dist.init_process_group("gloo", timeout=timedelta(minutes=30))
rank = dist.get_rank()
if rank == 0:
    began = time.monotonic()
    leave_after_failure()
    (Path(sys.argv[1]) / "left").write_text(str(time.monotonic() - began))
    sys.exit(1)
try:
    dist.all_reduce(torch.ones(1))
finally:
    (Path(sys.argv[1]) / "other").write_text("its collective ended")
"""

# Leaving itself hangs, and so does the end of the interpreter: a thread that is no daemon never returns.
HANGS = """
import threading, time
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore
from retrieva_pretrain import platform
from retrieva_pretrain.training.distributed import leave_after_failure

dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
platform.current().abandon_process_group = threading.Event().wait
threading.Thread(target=threading.Event().wait).start()
leave_after_failure(deadline=3)
print("went on", flush=True)
raise RuntimeError("the error that is on its way")
"""


def run(
    program: Path, text: str, *launcher: str, arguments: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run a program that may end badly."""
    program.write_text(text)
    return subprocess.run(
        [sys.executable, *launcher, str(program), *arguments],
        cwd=REPOSITORY,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_rank_that_fails_leaves_while_another_sits_in_a_collective(tmp_path: Path) -> None:
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node=2", *ON_THIS_MACHINE)
    done = run(tmp_path / "program.py", ONE_RAISES, *launcher, arguments=(str(tmp_path),))
    assert done.returncode == 1, done.stderr[-2000:]
    assert float((tmp_path / "left").read_text()) < 30
    assert (tmp_path / "other").read_text() == "its collective ended"


def test_a_rank_whose_leaving_hangs_says_its_error_and_ends_all_the_same(tmp_path: Path) -> None:
    done = run(tmp_path / "program.py", HANGS)
    assert done.stdout == "went on\n"
    assert "the error that is on its way" in done.stderr
    assert done.returncode == -14  # SIGALRM
