"""A shard: the finished work of a task, or of a part of one. Its record is written last."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data_prep.manifest import MalformedRecord
from data_prep.sources.records import Malformed, Place
from data_prep.whole_files import PartialFile, write_whole

KEPT_PROBLEMS = 100
"""Malformed records that are kept with all that is known of them; the others are counted."""

DOCUMENT = np.dtype([("tokens", "<i4"), ("labels", "<u4"), ("text_bytes", "<u8"), ("content_hash", "<u8")])
"""What is known of each document: `labels` is a number in the shard's list of label sets."""

Labels = tuple[tuple[str, str], ...]


class ShardFile(BaseModel):
    """Size and checksum (XXH3, 128 bits: it is there against damage, and takes no time) of a shard's file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    xxh3: str
    bytes: int


class ShardRecord(BaseModel):
    """What a shard holds, and the place its reading ended at; `last` where that is the end of the task."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: int
    part: int
    end_position: int
    end_records: int
    last: bool
    records: int
    documents: int
    tokens: int
    text_bytes: int
    dropped: dict[str, int]
    repaired: dict[str, int]
    malformed: dict[str, int]
    contaminated: dict[str, int]
    problems: list[MalformedRecord]
    label_sets: list[list[tuple[str, str]]]
    bin: ShardFile
    documents_file: ShardFile
    file_sha256: str | None = None

    @property
    def end(self) -> Place:
        """Where the next part goes on."""
        return Place(self.end_position, self.end_records)


class Tally(BaseModel):
    """What was counted on the way."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    records: int = 0
    text_bytes: int = 0
    dropped: Counter[str] = Field(default_factory=Counter)
    repaired: Counter[str] = Field(default_factory=Counter)
    malformed: Counter[str] = Field(default_factory=Counter)
    contaminated: Counter[str] = Field(default_factory=Counter)
    problems: list[MalformedRecord] = Field(default_factory=list)

    def add_malformed(self, found: Malformed) -> None:
        """Count what cannot be read, and keep the first of them in words."""
        self.records += found.records
        self.malformed[found.reason] += found.records
        if len(self.problems) < KEPT_PROBLEMS:
            self.problems.append(
                MalformedRecord(
                    file=str(found.file), record=found.record, unit=found.unit, problem=found.problem
                )
            )

    def add(self, other: Tally) -> None:
        """Add what another counted."""
        self.records += other.records
        self.text_bytes += other.text_bytes
        for name in ("dropped", "repaired", "malformed", "contaminated"):
            getattr(self, name).update(getattr(other, name))
        self.problems.extend(other.problems[: KEPT_PROBLEMS - len(self.problems)])


def shard_path(folder: Path, task: int, part: int, ending: str) -> Path:
    """`FOLDER/task-000012.part-0003.ENDING`."""
    return folder / f"task-{task:06d}.part-{part:04d}.{ending}"


class ShardWriter:
    """Writes one shard. Leaving the `with` block without `finish` removes what was written."""

    def __init__(self, folder: Path, task: int, part: int) -> None:
        self.folder, self.task, self.part = folder, task, part
        self.tally = Tally()
        self.documents = 0
        self.tokens = 0
        self._label_sets: dict[Labels, int] = {(): 0}
        self._bin = PartialFile(shard_path(folder, task, part, "bin"), xxhash.xxh3_128())
        try:
            self._documents = PartialFile(shard_path(folder, task, part, "docs"), xxhash.xxh3_128())
        except BaseException:
            self._bin.discard()
            raise

    def add(self, ids: npt.NDArray[Any], documents: npt.NDArray[Any], labels: list[Labels] | None) -> None:
        """Append documents: their ids back to back, a `DOCUMENT` each, and their labels where they have any."""
        if labels is not None:
            documents["labels"] = [self._label_sets.setdefault(one, len(self._label_sets)) for one in labels]
        self._bin.write(ids.data.cast("B") if len(ids) else b"")
        self._documents.write(documents.tobytes())
        self.documents += len(documents)
        self.tokens += len(ids)
        self.tally.text_bytes += int(documents["text_bytes"].sum())

    def finish(self, end: Place, last: bool, file_sha256: str | None) -> ShardRecord:
        """Bring the shard to the disk under its final name, the record last."""
        for file in (self._bin, self._documents):
            file.sync()
        record = ShardRecord(
            task=self.task,
            part=self.part,
            end_position=end.position,
            end_records=end.records,
            last=last,
            records=self.tally.records,
            documents=self.documents,
            tokens=self.tokens,
            text_bytes=self.tally.text_bytes,
            dropped=dict(self.tally.dropped),
            repaired=dict(self.tally.repaired),
            malformed=dict(self.tally.malformed),
            contaminated=dict(self.tally.contaminated),
            problems=self.tally.problems,
            label_sets=[list(one) for one in self._label_sets],
            bin=ShardFile(xxh3=self._bin.checksum, bytes=self._bin.size),
            documents_file=ShardFile(xxh3=self._documents.checksum, bytes=self._documents.size),
            file_sha256=file_sha256,
        )
        self._bin.publish()
        self._documents.publish()
        write_whole(shard_path(self.folder, self.task, self.part, "json"), record.model_dump_json().encode())
        return record

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._bin.discard()
        self._documents.discard()


def finished_parts(folder: Path, task: int) -> list[ShardRecord]:
    """The unbroken row of finished shards of a task, from its first part on."""
    found: list[ShardRecord] = []
    while record := _record(folder, task, len(found)):
        found.append(record)
        if record.last:
            break
    return found


def _record(folder: Path, task: int, part: int) -> ShardRecord | None:
    try:
        content = json.loads(shard_path(folder, task, part, "json").read_bytes())
        record = ShardRecord.model_validate(content)
        sizes = [shard_path(folder, task, part, ending).stat().st_size for ending in ("bin", "docs")]
    except (OSError, ValueError, ValidationError):
        return None
    return record if sizes == [record.bin.bytes, record.documents_file.bytes] else None
