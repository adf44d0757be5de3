"""The program of a run's snapshot: the `retrieva` command, and as a rank of training one with a log and an end."""

from __future__ import annotations

import io
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from retrieva_pretrain.cli import main as command_line
from retrieva_pretrain.exit_codes import REQUEUE
from retrieva_pretrain.launch.node import LOGS_VARIABLE
from retrieva_pretrain.launch.rank_end import describe_end, rank_log, write_end
from retrieva_pretrain.redaction import redacted


def main() -> None:
    """Run the command line. A rank writes into a log of its own, and leaves behind how it ended."""
    logs, rank = os.environ.get(LOGS_VARIABLE), os.environ.get("RANK", "")
    if not logs or not rank.isdecimal():
        command_line()
        return
    folder = Path(logs)
    _write_into(rank_log(folder, int(rank)))
    _leave_when_told(folder, int(rank))
    try:
        command_line()
    except BaseException as error:
        end = describe_end(int(rank), error)
        if not isinstance(error, SystemExit):
            # Python's own print would show what the message holds, tokens included.
            sys.stderr.write(end.traceback)
    else:
        end = describe_end(int(rank), None)
    write_end(folder, end)
    sys.exit(end.code)


def _write_into(log: Path) -> None:
    """Send all that this process and its libraries print into one file."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    os.close(descriptor)
    sys.stdout = _Redacted(sys.stdout.buffer, encoding="utf-8", errors="replace", line_buffering=True)
    sys.stderr = _Redacted(sys.stderr.buffer, encoding="utf-8", errors="replace", line_buffering=True)


class _Redacted(io.TextIOWrapper):
    """A stream on which no secret of the environment is written, whatever message holds it."""

    def write(self, text: str) -> int:
        return super().write(redacted(text))


def _leave_when_told(folder: Path, rank: int) -> None:
    """Leave at once when told to before training answers signals itself: there is nothing to save yet."""

    def leave(number: int, frame: FrameType | None) -> None:
        write_end(folder, describe_end(rank, SystemExit(REQUEUE)))
        os._exit(REQUEUE)

    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, leave)
