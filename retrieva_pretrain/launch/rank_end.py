"""What a rank of training leaves behind at its end, for the supervisor: an exit code, and what went wrong.

torchrun turns every worker's exit code into 1 and knows the tracebacks only of programs made for it; and of a
hundred ranks that fail, ninety-nine fail because the first one did. So each says with its time how it ended.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from data_prep.errors import DataPrepError
from retrieva_pretrain.errors import RetrievaError, RunIsHeldError
from retrieva_pretrain.exit_codes import DONE, FAILED, REQUEUE
from retrieva_pretrain.redaction import redacted

Kind = Literal["ended", "refused", "held", "out_of_memory", "error"]
_OUT_OF_MEMORY = re.compile(
    r"CUDA out of memory|CUDA error: out of memory|DefaultCPUAllocator: can't allocate memory"
)


@dataclass(frozen=True)
class RankEnd:
    """How one rank ended."""

    rank: int
    time: float
    """Seconds since 1970, by the node's clock."""
    code: int
    kind: Kind
    message: str
    traceback: str
    host: str = ""
    pid: int = 0

    @property
    def failed(self) -> bool:
        """Whether the rank ended with a failure of any kind."""
        return self.code not in (DONE, REQUEUE)


def rank_log(folder: Path, rank: int) -> Path:
    """Where a rank's output goes."""
    return folder / f"rank_{rank:05}.log"


def describe_end(rank: int, error: BaseException | None) -> RankEnd:
    """Return how a rank ends that ends with this exception, or without one."""
    code, message, trace = DONE, "", ""
    kind: Kind = "ended"
    cause = error
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else FAILED if error.code else DONE
        # The command line says what a user can mend in one message, and exits with 1.
        cause = error.__context__ if code == FAILED else None
    elif error is not None:
        code = FAILED
    if cause is not None:
        message = str(cause) if isinstance(cause, RetrievaError | DataPrepError) else _one_line(cause)
        trace = "".join(traceback.format_exception(type(cause), cause, cause.__traceback__))
        kind = _kind(cause)
    return RankEnd(
        rank, time.time(), code, kind, redacted(message), redacted(trace), socket.gethostname(), os.getpid()
    )


def write_end(folder: Path, end: RankEnd) -> None:
    """Write a rank's end; whole or absent, and without a word where the disk takes no more."""
    try:
        new = folder / f".rank_{end.rank:05}.{os.getpid()}"
        new.write_text(json.dumps(asdict(end)), encoding="utf-8")
        new.rename(_end_file(folder, end.rank))
    except OSError:
        pass


def read_ends(folder: Path) -> list[RankEnd]:
    """Return the ends that ranks have left in a folder, the first first."""
    found = []
    for path in folder.glob("rank_*.end.json"):
        try:
            found.append(RankEnd(**json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError):
            continue
    return sorted(found, key=lambda end: end.time)


def first_failure(folder: Path, outcome: Mapping[str, Any]) -> RankEnd | None:
    """Return the end of the rank that failed first; where one told more than its exit code, that.

    `outcome` is what `exit.json` holds, written by the first process that met an exception: who comes first to its
    end is decided by how long it takes to leave the others, and by the nodes' clocks.
    """
    failed = [end for end in read_ends(folder) if end.failed]
    first = [end for end in failed if (end.host, end.pid) == (outcome.get("host"), outcome.get("pid"))]
    told = [end for end in failed if end.message]
    return next(iter([*first, *told, *failed]), None)


def _kind(error: BaseException) -> Kind:
    if isinstance(error, RunIsHeldError):
        return "held"
    if isinstance(error, RetrievaError | DataPrepError):
        return "refused"
    if (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or _OUT_OF_MEMORY.search(str(error))
    ):
        return "out_of_memory"
    return "error"


def _one_line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


def _end_file(folder: Path, rank: int) -> Path:
    return folder / f"rank_{rank:05}.end.json"
