"""One training at a time in a run's folder. No torch.

The first process of a run holds an flock on runs/NAME/lock for as long as it lives; the kernel lets go of it with
the process, however that ends, so that nothing stale is left. The text in the file is for the refusal alone. On a
network file system that has no locks, or whose locks do not reach other machines, two trainings at once are the
user's care.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from retrieva_pretrain.errors import RunIsHeldError
from retrieva_pretrain.training.run_folder import RunFolder

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)


def is_first_process() -> bool:
    """Whether this is the first of the run's processes, or the only one; known before torch is loaded."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def hold_run(folder: RunFolder) -> Iterator[None]:
    """Hold a run for this training: its first process takes the lock, the others do nothing.

    Raises:
        RunIsHeldError: another training is at work there; the message names its machine and process.
    """
    if not is_first_process():
        yield
        return
    folder.path.mkdir(parents=True, exist_ok=True)
    # Python's files are not handed on to programs that this process starts.
    with (folder.path / "lock").open("a+b") as stream:
        try:
            fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunIsHeldError(
                f"{folder.path}: another training is at work on this run: {_holder(stream)}. Wait for it, stop it,"
                " or give this recipe another `name`."
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        stream.truncate(0)
        stream.write(
            json.dumps(
                {
                    "pid": os.getpid(),
                    "host": socket.gethostname(),
                    "since": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
                    "command": " ".join(sys.argv),
                }
            ).encode()
        )
        stream.flush()
        yield


def _holder(stream: BinaryIO) -> str:
    try:
        stream.seek(0)
        who = json.loads(stream.read())
        return f"process {who['pid']} on {who['host']}, since {who['since']} ({who['command']})"
    except (OSError, ValueError, TypeError, KeyError):
        return "it has not said which process it is"
