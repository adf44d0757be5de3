"""The work of a build, cut into tasks: a function of the configuration and of the files, kept on the disk.

Every process that takes part, on any node, reads the same plan. It names what the shards were made of, so
that shards of other inputs or options are noticed and never mixed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from data_prep.corpus import CorpusConfig
from data_prep.errors import DataPrepError
from data_prep.sources import Source
from data_prep.sources.files import expand
from data_prep.sources.records import Range
from data_prep.tokenizer import Tokenizer
from data_prep.whole_files import write_whole


@dataclass(frozen=True)
class Cut:
    """How the work is cut; the corpus is the same however it is.

    - `task_bytes`: bytes on the disk of a range that one task reads, where a file can be entered in the middle
    - `shard_bytes`: bytes of text (or of the file) after which a shard ends: what a kill can cost a worker
    """

    task_bytes: int = 1 << 26
    shard_bytes: int = 1 << 28


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Input(_Part):
    """One raw file as it was when the build was planned."""

    path: str
    bytes: int
    mtime_ns: int


class Task(_Part):
    """A range of one input; `bytes` is about what it takes of the file on the disk."""

    number: int
    input: int
    start: int
    end: int | None
    bytes: int

    @property
    def part(self) -> Range:
        """The range as the source takes it."""
        return Range(self.start, self.end)


class Fingerprint(_Part):
    """What decides the tokens, the files aside."""

    parameters: dict[str, Any]
    tokenizer_sha256: str
    sentencepiece_version: str
    contamination: str | None
    program: str


class BuildPlan(_Part):
    """The tasks of one build."""

    format_version: Literal[1] = 1
    fingerprint: Fingerprint
    inputs: list[Input]
    tasks: list[Task]

    @property
    def source_bytes(self) -> int:
        """Size of all inputs."""
        return sum(file.bytes for file in self.inputs)

    def path_of(self, task: Task) -> Path:
        """The file a task reads."""
        return Path(self.inputs[task.input].path)

    def share(self, number: int, of: int) -> list[Task]:
        """The tasks of share `number` (from 1), about the same number of bytes in each; a pure function."""
        loads = [0] * of
        chosen = []
        # The largest first, each to the share that has least: gzip files are far apart in size.
        for task in sorted(self.tasks, key=lambda task: (-task.bytes, task.number)):
            least = min(range(of), key=loads.__getitem__)
            loads[least] += task.bytes + 1
            if least == number - 1:
                chosen.append(task)
        return sorted(chosen, key=lambda task: task.number)

    def save(self, path: Path) -> None:
        """Write the plan."""
        write_whole(path, (self.model_dump_json(indent=1) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> BuildPlan | None:
        """The plan of an unfinished build; None where there is none.

        Raises `DataPrepError` when it cannot be read.
        """
        try:
            return cls.model_validate(json.loads(path.read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, ValidationError):
            raise DataPrepError(
                f"{path}: the plan of the unfinished build cannot be read. Give --overwrite to begin anew."
            ) from None


def fingerprint(config: CorpusConfig, tokenizer: Tokenizer, contamination: str | None) -> Fingerprint:
    """The fingerprint of a configuration, where it lies and how patient it is left out."""
    return Fingerprint(
        parameters=deciding_parameters(config.model_dump(mode="json")),
        tokenizer_sha256=tokenizer.sha256,
        sentencepiece_version=tokenizer.sentencepiece_version,
        contamination=contamination,
        program=program_version(),
    )


def program_version() -> str:
    """The version of this program: another one may clean or cut texts otherwise."""
    try:
        return version("retrieva-pretrain")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "unknown"


def deciding_parameters(parameters: dict[str, Any]) -> dict[str, Any]:
    """What of a configuration decides the tokens, options and steps one by one."""
    flat = {key: parameters.get(key) for key in ("source", "append_eod", "deduplicate")}
    if parameters.get("append_eod"):
        flat["eod"] = parameters.get("eod")
    if parameters.get("bos") is not None:
        flat["bos"] = parameters["bos"]
    for group in ("options", "text"):
        flat.update({f"{group}.{key}": value for key, value in (parameters.get(group) or {}).items()})
    for key, value in (parameters.get("decontaminate") or {}).items():
        flat[f"decontaminate.{key}"] = value
    return flat


def inputs_of(config: CorpusConfig, source: Source) -> list[Input]:
    """The files of a corpus as they are now."""
    if not source.reads_files:
        return []
    found = []
    for path in expand(config.files):
        stat = path.stat()
        found.append(Input(path=str(path), bytes=stat.st_size, mtime_ns=stat.st_mtime_ns))
    return found


def make_plan(
    config: CorpusConfig, source: Source, found: list[Input], made_of: Fingerprint, task_bytes: int
) -> BuildPlan:
    """Cut the inputs into tasks.

    Raises `DataPrepError` for a file that is not of the source's format.
    """
    tasks: list[Task] = []
    if not source.reads_files:
        return BuildPlan(
            fingerprint=made_of,
            inputs=[Input(path=config.source, bytes=0, mtime_ns=0)],
            tasks=[Task(number=0, input=0, start=0, end=None, bytes=0)],
        )
    for index, file in enumerate(found):
        ranges = source.ranges(Path(file.path), task_bytes)
        for part in ranges:
            size = file.bytes // len(ranges)
            tasks.append(Task(number=len(tasks), input=index, start=part.start, end=part.end, bytes=size))
    return BuildPlan(fingerprint=made_of, inputs=found, tasks=tasks)


def changes(plan: BuildPlan, found: list[Input], made_of: Fingerprint) -> list[str]:
    """Readable lines for everything that is not as it was when the build was planned."""
    lines = []
    old, new = plan.fingerprint.parameters, made_of.parameters
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            lines.append(f"{key}: {old.get(key)!r} -> {new.get(key)!r}")
    if plan.fingerprint.tokenizer_sha256 != made_of.tokenizer_sha256:
        lines.append("tokenizer: another model")
    for name in ("sentencepiece_version", "contamination", "program"):
        before, after = getattr(plan.fingerprint, name), getattr(made_of, name)
        if before != after:
            what = "decontaminate: other evaluation texts" if name == "contamination" else name
            lines.append(what if name == "contamination" else f"{what}: {before} -> {after}")
    return [*lines, *_changed_files(plan.inputs if found else [], found)]


def _changed_files(old: list[Input], new: list[Input]) -> list[str]:
    if len(old) != len(new):
        return [f"files: {len(old)} -> {len(new)}"]
    lines = []
    for before, after in zip(old, new, strict=True):
        if Path(before.path).resolve() != Path(after.path).resolve():
            lines.append(f"files: {before.path} -> {after.path}")
        elif before.bytes != after.bytes:
            lines.append(f"{after.path}: {before.bytes:,} -> {after.bytes:,} bytes")
        elif before.mtime_ns != after.mtime_ns:
            lines.append(f"{after.path}: written since the build began")
    return lines[:20]
