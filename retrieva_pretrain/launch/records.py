"""`jobs.jsonl`: what was submitted, one line a job, for those who ask later where it stands."""

from __future__ import annotations

import json
import os
from datetime import datetime, timezone
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from retrieva_pretrain.errors import LaunchError


class JobRecord(BaseModel):
    """One job that a scheduler has taken."""

    # A later version may say more.
    model_config = ConfigDict(extra="ignore", frozen=True)

    time: str
    """When it was submitted (UTC, ISO 8601)."""
    submission: int
    """Which call submitted it, from 1: jobs that belong together have the same number."""
    kind: str
    """`array` or `merge`."""
    scheduler: str
    job_id: str
    indices: list[int] = []
    """The tasks of an array."""
    shards: int | None = None
    """Into how many shares the work is cut."""
    after: list[str] = []
    """The jobs it waits for."""
    script: str
    command: list[str]


def now() -> str:
    """Return the time as records hold it."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def append_record(path: Path, record: JobRecord) -> None:
    """Add one line and bring it to the disk."""
    with path.open("ab") as stream:
        # A kill may have torn the line before.
        begin = b"\n" if stream.tell() and not _ends_a_line(path) else b""
        stream.write(begin + record.model_dump_json().encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())


def read_records(path: Path) -> list[JobRecord]:
    """Return the records of a file, oldest first; none where there is no file. A torn line is left out.

    Raises:
        LaunchError: the file cannot be read, or a whole line is no record.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise LaunchError(f"{path}: cannot be read: {error.strerror}") from None
    records = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            content = json.loads(line)
        except ValueError:
            continue
        try:
            records.append(JobRecord.model_validate(content))
        except ValidationError:
            raise LaunchError(f"{path}:{number}: is no record of a job; remove the line") from None
    return records


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) == b"\n"
