"""How an attempt ended, from all that its ranks, torchrun and training itself have left behind.

What another try cannot mend ends the chain: what is refused with a message for people (a recipe, a corpus, a
checkpoint, losses that are not finite) and memory that does not suffice. Anything else, a hanging process among it,
may be the machine's fault, and is tried again until the cap.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from retrieva_pretrain.exit_codes import DONE, REQUEUE
from retrieva_pretrain.launch.attempts import Outcome
from retrieva_pretrain.launch.rank_end import RankEnd, first_failure, rank_log, read_ends
from retrieva_pretrain.launch.run_files import RunFiles
from retrieva_pretrain.launch.tails import read_tail
from retrieva_pretrain.outcome import read_outcome

_ROOT_CAUSE = re.compile(r"Root Cause.*?rank\s*:\s*(\d+).*?exitcode\s*:\s*(-?\d+)", re.DOTALL)
_EXIT = re.compile(r"^\s*rank\s*:\s*(\d+).*\n\s*exitcode\s*:\s*(-?\d+)", re.MULTILINE)
_KERNEL_OUT_OF_MEMORY = re.compile(r"(?i)oom[-_ ]kill|out[-_ ]of[-_ ]memory handler")


@dataclass(frozen=True)
class Ending:
    """How an attempt ended, and why."""

    outcome: Outcome
    reason: str
    rank: int | None = None
    """The rank that failed first."""
    pause: float = 0
    """Seconds to wait, at least, before another try."""
    held: bool = False
    """Whether another training held the run's lock."""


def judge(files: RunFiles, number: int, exit_codes: Iterable[int], *, told_to_leave: bool) -> Ending:
    """Return how attempt `number` ended.

    Args:
        files: the run's files.
        number: the attempt.
        exit_codes: of the processes that started training on the nodes.
        told_to_leave: whether a signal was passed on to it.
    """
    logs = files.attempt_logs(number)
    codes, ends = list(exit_codes), read_ends(logs)
    said = read_outcome(files.run) or {}
    failure = first_failure(logs, said)
    if failure is None and not any(codes):
        if said.get("reason") == "stopped" or any(end.code == REQUEUE for end in ends):
            return Ending("left", str(said.get("message") or "left before its time was up"))
        if ends and all(end.code == DONE for end in ends):
            return Ending("done", "trained to the end of the recipe")
        return Ending("failed", f"training ended without a word; see {logs}")
    if said.get("reason") == "hung":
        # Its watchdog has ended it without an exception; others, if any, have failed because of that.
        return Ending("failed", f"hung: {said.get('message')}")
    if failure is not None:
        # One that has lost its peer says so; the peer that was killed says nothing.
        return (failure.kind == "error" and _of_killed(logs)) or _of_rank(failure)
    if said.get("reason") == "failed":
        return Ending("failed", str(said.get("message")))
    ending = _of_no_words(logs, codes, told_to_leave=told_to_leave)
    if said.get("reason") == "stopped" and ending.outcome == "failed" and ending.rank is None:
        return Ending("failed", f"torchrun was killed; {said.get('message')}")
    return ending


def failure_report(files: RunFiles, number: int, rank: int | None) -> str:
    """Return what the rank that failed first has said, its traceback at the end; nothing where it said nothing."""
    if rank is None:
        return ""
    logs = files.attempt_logs(number)
    failure = next((end for end in read_ends(logs) if end.rank == rank and end.failed), None)
    if failure is None:
        last = "".join(read_tail(rank_log(logs, rank)).splitlines(keepends=True)[-10:])
        head = f"rank {rank} failed first, in attempt {number}, and could not say why; its log ends with:"
        return f"{head}\n{last}".rstrip()
    said = failure.message if failure.kind in ("refused", "held") else failure.traceback
    return (
        f"rank {failure.rank} failed first, in attempt {number} ({rank_log(logs, failure.rank)}):\n"
        + (said or f"it ended with exit code {failure.code}").rstrip()
    )


def _of_rank(failure: RankEnd) -> Ending:
    said = failure.message or f"ended with exit code {failure.code}"
    reason = f"rank {failure.rank}: {said}"
    if failure.kind == "refused":
        return Ending("stopped", said, failure.rank)
    if failure.kind == "held":
        # A file system takes a minute or two to free what a lost node has locked.
        return Ending("failed", said, failure.rank, pause=60, held=True)
    if failure.kind == "out_of_memory":
        way_out = "smaller curriculum.N.max_micro_batch_size, recomputation, or more GPUs"
        return Ending("stopped", f"out of memory, {reason}; {way_out}", failure.rank)
    return Ending("failed", reason, failure.rank)


def _of_killed(logs: Path) -> Ending | None:
    """Return the end of an attempt of which a rank was killed, or None where none was, as far as torchrun knows."""
    texts = _around(logs)
    if any(map(_KERNEL_OUT_OF_MEMORY.search, texts)):
        return Ending("stopped", "the node's memory did not suffice: the kernel has killed a process")
    spoken = {end.rank for end in read_ends(logs)}
    for rank, code in (map(int, found) for text in texts for found in _EXIT.findall(text)):
        # With SIGTERM torchrun ends those that are left.
        if code < 0 and code != -signal.SIGTERM and rank not in spoken:
            hint = (
                "; where nobody else did it, the kernel, for want of memory"
                if code == -signal.SIGKILL
                else ""
            )
            return Ending("failed", f"rank {rank} was killed by signal {-code}{hint}", rank)
    return None


def _of_no_words(logs: Path, codes: list[int], *, told_to_leave: bool) -> Ending:
    """Judge what no rank has told: by what torchrun and the scheduler's starter have printed."""
    if told_to_leave:
        return Ending("left", "was told to leave, and was gone before it could save")
    if (killed := _of_killed(logs)) is not None:
        return killed
    texts = _around(logs)
    for found in filter(None, map(_ROOT_CAUSE.search, texts)):
        rank, code = int(found[1]), int(found[2])
        if code == REQUEUE:
            return Ending("left", "left before its time was up", rank)
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return Ending("failed", f"rank {rank} {how}", rank)
    last = next(
        (line for text in reversed(texts) for line in reversed(text.splitlines()) if line.strip()), ""
    )
    shown = f": {last.strip()[:300]}" if last else ""
    return Ending("failed", f"training could not be started, or was killed (exit codes {codes}){shown}")


def _around(logs: Path) -> list[str]:
    """Return what torchrun of every node has printed, and then the scheduler's starter."""
    return [read_tail(path) for path in [*sorted(logs.glob("node_*.log")), logs / "start.log"]]
