"""`jobs.jsonl`: what was submitted, one line a job, for those who ask later where it stands."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from retrieva_pretrain.errors import LaunchError
from retrieva_pretrain.launch.profiles import SchedulerName


class JobRecord(BaseModel):
    """One job that a scheduler has taken."""

    # A later version may say more.
    model_config = ConfigDict(extra="ignore", frozen=True)

    time: str
    """When it was submitted (UTC, ISO 8601)."""
    submission: int
    """Which call submitted it, from 1: jobs that belong together have the same number."""
    kind: str
    """`array`, `merge`, `train` or `preflight`."""
    scheduler: SchedulerName
    job_id: str
    indices: list[int] = []
    """The tasks of an array."""
    shards: int | None = None
    """Into how many shares the work is cut."""
    after: list[str] = []
    """The jobs it waits for."""
    nodes: int | None = None
    script: str
    command: list[str]


def now() -> str:
    """Return the time as records hold it."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def append_record(path: Path, record: BaseModel) -> None:
    """Add one line and bring it to the disk."""
    with path.open("ab") as stream:
        # A kill may have torn the line before.
        begin = b"\n" if stream.tell() and not _ends_a_line(path) else b""
        stream.write(begin + record.model_dump_json().encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())


@contextmanager
def submitting(folder: Path) -> Iterator[None]:
    """Let one submission at a time look at what is under way and add to it; makes `folder` and its `logs`.

    Raises:
        LaunchError: another submits at this moment, or the folder cannot be made.
    """
    try:
        # A job whose log has no folder fails without a word.
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        with held(folder / "lock") as mine:
            if not mine:
                raise LaunchError(f"{folder}: its jobs are being submitted at this moment")
            yield
    except OSError as error:
        raise LaunchError(f"{error.filename or folder}: {error.strerror or error}") from None


@contextmanager
def held(path: Path, try_again: Callable[[], bool] = lambda: False) -> Iterator[bool]:
    """Hold a lock on a file; the value is False where another process holds it.

    The kernel gives it back when this process ends, however it ends. `try_again` is called after a try in vain:
    it waits as long as it likes, and says whether there is to be another.
    """
    with path.open("w") as stream:
        while True:
            try:
                fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if try_again():
                    continue
                yield False
                return
            except OSError:  # no locks on this file system
                pass
            break
        yield True


def numbered_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield number and content of the lines of JSON in a file; none where there is no file, nor for a torn line.

    Raises:
        LaunchError: the file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    except OSError as error:
        raise LaunchError(f"{path}: cannot be read: {error.strerror}") from None
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            content = json.loads(line)
        except ValueError:
            continue
        yield number, content


def read_records(path: Path) -> list[JobRecord]:
    """Return the records of a file, oldest first; none where there is no file. A torn line is left out.

    Raises:
        LaunchError: the file cannot be read, or a whole line is no record.
    """
    records = []
    for number, content in numbered_lines(path):
        try:
            records.append(JobRecord.model_validate(content))
        except ValidationError:
            raise LaunchError(f"{path}:{number}: is no record of a job; remove the line") from None
    return records


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) == b"\n"
