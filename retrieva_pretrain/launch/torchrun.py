"""The processes of one machine under torchrun."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

ON_THIS_MACHINE = ("--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1")
"""Arguments of torchrun for processes of one machine alone.

torchrun itself listens on a free port and tells its processes: a port that is looked for beforehand can be another's by
the time that torch is loaded.
"""


def torchrun_command(recipe: Path, overrides: Sequence[str] = (), *, processes: int) -> list[str]:
    """Return the command that trains a recipe with so many processes on this machine."""
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        f"--nproc-per-node={processes}",
        *ON_THIS_MACHINE,
        "-m",
        "retrieva_pretrain",
        "train",
        str(recipe),
        *overrides,
    ]


def start(
    command: Sequence[str], *, output: Path | None = None, threads: int = 1, gpus: bool = True
) -> subprocess.Popen[bytes]:
    """Start a command with so many CPU threads a process; its output goes to a file where one is given.

    With `gpus=False` the processes see no CUDA device.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    if not gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    if output is None:
        return subprocess.Popen(list(command), env=environment)
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("ab") as stream:
        return subprocess.Popen(list(command), env=environment, stdout=stream, stderr=subprocess.STDOUT)


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """Kill a process of ours and everything it started (`kill_family`), and wait until all are gone."""
    with suppress(psutil.NoSuchProcess):
        psutil.wait_procs(kill_family(psutil.Process(process.pid)), timeout=30)
    process.wait()


def kill_family(root: psutil.Process) -> list[psutil.Process]:
    """Kill a process and everything it started, at once (SIGKILL); returns them all.

    torchrun puts every worker into a session of its own, so that a signal to its group does not reach them. The first
    goes first: it would see the others end, and write that down or start new ones.
    """
    family = [root, *root.children(recursive=True)]
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    return family


def free_port() -> int:
    """Return a port of this machine that nobody listens on at the moment, whatever the address."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
