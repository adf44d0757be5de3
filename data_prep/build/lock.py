"""Who may work on a corpus: one whole build alone, or several shares side by side."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from data_prep.errors import DataPrepError

# Some network file systems have no locks; there two builds at once are the user's care.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)


@contextmanager
def whole_build_lock(folder: Path) -> Iterator[None]:
    """Held by a build or a merge of everything.

    Raises `DataPrepError` naming the process that is at work.
    """
    with ExitStack() as stack:
        _hold(stack, folder / "lock", fcntl.LOCK_EX, folder)
        yield


@contextmanager
def share_lock(folder: Path, number: int, of: int) -> Iterator[None]:
    """Held by one share; others of the same cut work beside it, a whole build does not.

    Raises `DataPrepError` naming the process that is at work.
    """
    with ExitStack() as stack:
        _hold(stack, folder / "lock", fcntl.LOCK_SH, folder)
        _hold(stack, folder / f"share-{number}-of-{of}.lock", fcntl.LOCK_EX, folder)
        yield


def _hold(stack: ExitStack, path: Path, kind: int, folder: Path) -> None:
    stream = stack.enter_context(path.open("a+b"))
    try:
        fcntl.flock(stream.fileno(), kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DataPrepError(_busy(path, folder)) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    if kind == fcntl.LOCK_EX:
        _sign(stream)


def _sign(stream: BinaryIO) -> None:
    who = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        "command": " ".join(sys.argv),
    }
    stream.truncate(0)
    stream.write(json.dumps(who).encode())
    stream.flush()


def _busy(path: Path, folder: Path) -> str:
    holders = [path, *sorted(folder.glob("share-*.lock"))] if path.name == "lock" else [path]
    for holder in holders:
        if (who := _holder(holder)) is not None:
            return (
                f"{folder}: another build is at work here: process {who.get('pid')} on {who.get('host')}, since "
                f"{who.get('since')} ({who.get('command')}). Wait for it, stop it, or choose another output directory."
            )
    return f"{folder}: another build is at work here. Wait for it, or choose another output directory."


def _holder(path: Path) -> dict[str, object] | None:
    """What the process that holds a lock wrote of itself; None where nobody holds it."""
    try:
        with path.open("rb") as stream:
            try:
                fcntl.flock(stream.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                content = json.loads(stream.read() or b"null")
                return content if isinstance(content, dict) else None
    except (OSError, ValueError):
        return None
    return None
