"""One node of a job: its torchrun, and the signals that its ranks must get.

torchrun knows nothing of SIGUSR1 and dies of it; SIGTERM it passes on and kills after 30 seconds who is still
there, too soon for a large checkpoint. So this process stands between: it tells the ranks themselves to leave, and
torchrun waits for them as it always does.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import psutil

from retrieva_pretrain.exit_codes import DONE, REQUEUE
from retrieva_pretrain.launch.rank_end import read_ends
from retrieva_pretrain.launch.spec import JobSpec
from retrieva_pretrain.launch.torchrun import ON_THIS_MACHINE, kill_tree

LOGS_VARIABLE = "RETRIEVA_RANK_LOGS"
LEAVE_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
_TELL_AGAIN_SECONDS = 3.0
_ORPHANS_SECONDS = 60.0
"""How long ranks may take to save whose torchrun was killed."""


@dataclass(frozen=True)
class Meeting:
    """Where the nodes of one attempt meet, and until when they train."""

    attempt: int
    address: str
    port: int
    leave_at: float | None
    """When training must have saved and left, in seconds since 1970."""


def torchrun_of_node(spec: JobSpec, meeting: Meeting, node_rank: int) -> list[str]:
    """Return the torchrun command of one node."""
    if spec.nodes == 1:
        meeting_place: tuple[str, ...] = ON_THIS_MACHINE
    else:
        address = (f"--master-addr={meeting.address}", f"--master-port={meeting.port}")
        meeting_place = (f"--nnodes={spec.nodes}", f"--node-rank={node_rank}", *address)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        f"--nproc-per-node={spec.processes_per_node}",
        *meeting_place,
        # A restart by torchrun would also restart what has left on purpose; the supervisor tells them apart.
        "--max-restarts=0",
        str(spec.program),
        *spec.arguments,
    ]
    if meeting.leave_at is not None:
        left = max(1, round(meeting.leave_at - time.time()))
        command += ["--exit-before", f"{left // 3600:02}:{left // 60 % 60:02}:{left % 60:02}"]
    return command


def run_node(spec: JobSpec, meeting: Meeting, node_rank: int) -> int:
    """Train on this node until its ranks have ended; return 0 where none has failed, nor torchrun was killed."""
    logs = spec.files.attempt_logs(meeting.attempt)
    logs.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, LOGS_VARIABLE: str(logs)}
    if spec.threads is not None:
        environment.setdefault("OMP_NUM_THREADS", str(spec.threads))
    told: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        told.append(number)

    for number in LEAVE_SIGNALS:
        signal.signal(number, note)
    parent = os.getppid()
    with (logs / f"node_{node_rank:03}.log").open("ab") as log:
        process = subprocess.Popen(
            torchrun_of_node(spec, meeting, node_rank),
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            # What the scheduler sends to the whole group must reach the ranks by way of this process alone.
            start_new_session=True,
            preexec_fn=_ignore_reminders,
        )
    try:
        told_at = 0.0
        while process.poll() is None:
            time.sleep(0.2)
            # Again and again: a rank that is only just starting may not listen yet.
            if told and time.monotonic() - told_at > _TELL_AGAIN_SECONDS:
                told_at = time.monotonic()
                _tell_ranks(process)
            if os.getppid() != parent:  # who waits for it is dead
                break
    finally:
        died = process.poll() is not None and process.returncode < 0
        kill_tree(process)
        _end_orphans(logs, node_rank, grace=_ORPHANS_SECONDS if died else 0)
    first = node_rank * spec.processes_per_node
    mine = range(first, first + spec.processes_per_node)
    # A rank that was killed leaves no end behind, and torchrun then tells the others to leave.
    well = [end for end in read_ends(logs) if end.rank in mine and end.code in (DONE, REQUEUE)]
    return 0 if process.returncode == 0 or (len(well) == len(mine) and not died) else 1


def node_rank_here() -> int:
    """Return which node of the job this is, where the scheduler's own starter says so."""
    return int(os.environ.get("SLURM_NODEID", "0"))


def _tell_ranks(torchrun: subprocess.Popen[bytes]) -> None:
    """Send SIGUSR1 to the ranks: torchrun's children, each of which has been told its rank."""
    try:
        children = psutil.Process(torchrun.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return
    ranks = [child for child in children if _rank_of(child) is not None]
    # Workers of a rank have its environment and are its own business.
    pids = {child.pid for child in ranks}
    for child in ranks:
        with suppress(psutil.NoSuchProcess):
            if child.ppid() not in pids:
                child.send_signal(signal.SIGUSR1)


def _rank_of(process: psutil.Process) -> str | None:
    return _environment(process).get("LOCAL_RANK")


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return {}


def _ignore_reminders() -> None:
    """Let torchrun live when a signal reaches every process of a job, as srun's do: it would die of these two.

    Ranks inherit it until they listen themselves.
    """
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def _end_orphans(logs: Path, node_rank: int, *, grace: float) -> None:
    """End ranks of this node that have outlived their torchrun: nobody would, and they hold the run's lock.

    With a grace they are told to leave first and have so many seconds for it.
    """
    wanted = {LOGS_VARIABLE: str(logs), "GROUP_RANK": str(node_rank)}
    orphans = [
        p for p in psutil.process_iter() if p.pid != os.getpid() and wanted.items() <= _environment(p).items()
    ]
    if orphans and grace:
        _signal_all(orphans, signal.SIGUSR1)
        _, orphans = psutil.wait_procs(orphans, timeout=grace)
    _signal_all(orphans, signal.SIGKILL)


def _signal_all(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)
