"""The finished shards of a build to one corpus: streamed, with memory for the index alone."""

from __future__ import annotations

import itertools
import mmap
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from data_prep.build.plan import BuildPlan
from data_prep.build.shard import DOCUMENT, KEPT_PROBLEMS, ShardRecord, Tally, finished_parts, shard_path
from data_prep.build.task import TaskRunner
from data_prep.duplicates import first_occurrences
from data_prep.errors import DataPrepError
from data_prep.indexed import IndexedDatasetWriter
from data_prep.manifest import (
    Counts,
    EndOfDocument,
    Manifest,
    Output,
    Outputs,
    SourceFile,
    StartOfDocument,
    TokenizerRecord,
)

_PIECE = 1 << 22


@dataclass
class _FileCounts:
    documents: int = 0
    tokens: int = 0
    text_bytes: int = 0


@dataclass
class _Merged:
    files: list[_FileCounts]
    labels: dict[str, Counter[str]] = field(default_factory=dict)
    text_bytes: int = 0
    duplicates: int = 0


def all_shards(plan: BuildPlan, folder: Path) -> list[ShardRecord]:
    """Every shard in the order of the corpus.

    Raises `DataPrepError` saying which tasks are not finished.
    """
    shards: list[ShardRecord] = []
    missing: list[int] = []
    for task in plan.tasks:
        parts = finished_parts(folder, task.number)
        if not parts or not parts[-1].last:
            missing.append(task.number)
        shards.extend(parts)
    if missing:
        first = plan.path_of(plan.tasks[missing[0]])
        raise DataPrepError(
            f"{folder}: {len(missing):,} of {len(plan.tasks):,} tasks are not finished, the first of them in {first}. "
            "Run `retrieva data build` again, or the shares that failed."
        )
    return shards


def check_malformed(shards: list[ShardRecord], limit: float) -> None:
    """Raise `DataPrepError` when more of the records than the declared share could not be read."""
    malformed = sum(sum(shard.malformed.values()) for shard in shards)
    records = sum(shard.records for shard in shards)
    if malformed and malformed > limit * records:
        problems = itertools.chain.from_iterable(shard.problems for shard in shards)
        raise DataPrepError(too_many_malformed(malformed, records, limit, [str(one) for one in problems]))


def too_many_malformed(malformed: int, records: int, limit: float, problems: list[str]) -> str:
    """The message for it, with the first problems."""
    shown = "\n".join(f"  {problem}" for problem in problems[:5])
    return (
        f"{malformed:,} of {records:,} records ({malformed / max(records, 1):.2%}) cannot be read, and max_malformed "
        f"allows {limit:.2%}:\n{shown}\nMend the files, or allow more with max_malformed=... and run again."
    )


def merge(
    runner: TaskRunner,
    prefix: Path,
    progress: Callable[[int], None],
    *,
    memory_bytes: int = 1 << 30,
) -> Manifest:
    """Write the corpus from all shards and publish it, the manifest last; `progress` gets tokens written.

    Duplicates leave here, the first of each stays: so the result is the same however the work was shared.

    Raises `DataPrepError` where a shard is missing or damaged, or too much could not be read.
    """
    shards = all_shards(runner.plan, runner.folder)
    check_malformed(shards, runner.config.max_malformed)
    keep = _kept(runner, shards, memory_bytes) if runner.config.deduplicate else itertools.repeat(None)
    merged = _Merged([_FileCounts() for _ in runner.plan.inputs])
    with IndexedDatasetWriter(prefix, runner.dtype) as writer:
        for shard, mask in zip(shards, keep, strict=False):
            _append(runner, shard, mask, writer, merged)
            progress(writer.num_tokens)
        bin_file, idx_file = writer.finish()
        outputs = Outputs(bin=Output(**bin_file._asdict()), idx=Output(**idx_file._asdict()))
        manifest = _manifest(runner, shards, merged, writer, outputs)
        # Between the renames the old manifest would vouch for new files.
        Manifest.path(prefix).unlink(missing_ok=True)
        writer.publish()
        manifest.save(prefix)
    return manifest


def _kept(
    runner: TaskRunner, shards: list[ShardRecord], memory_bytes: int
) -> Iterator[npt.NDArray[np.bool_] | None]:
    def hashes() -> Iterator[npt.NDArray[np.uint64]]:
        for shard in shards:
            yield _documents(runner.folder, shard)["content_hash"]

    return iter(first_occurrences(hashes, [shard.documents for shard in shards], memory_bytes=memory_bytes))


def _documents(folder: Path, shard: ShardRecord) -> npt.NDArray[Any]:
    path = shard_path(folder, shard.task, shard.part, "docs")
    data = path.read_bytes()
    if xxhash.xxh3_128_hexdigest(data) != shard.documents_file.xxh3:
        raise DataPrepError(_damaged(path))
    return np.frombuffer(data, DOCUMENT)


def _damaged(path: Path) -> str:
    # Without its record the shard counts as unfinished.
    path.with_suffix(".json").unlink(missing_ok=True)
    return f"{path}: this shard was damaged after it was written. Run `retrieva data build` again: it is built anew."


def _append(
    runner: TaskRunner,
    shard: ShardRecord,
    mask: npt.NDArray[np.bool_] | None,
    writer: IndexedDatasetWriter,
    merged: _Merged,
) -> None:
    documents = _documents(runner.folder, shard)
    path = shard_path(runner.folder, shard.task, shard.part, "bin")
    ends = np.cumsum(documents["tokens"], dtype=np.int64) * writer.dtype.itemsize
    if int(ends[-1] if len(ends) else 0) != shard.bin.bytes:
        raise DataPrepError(_damaged(path))
    runs = [(0, shard.bin.bytes)] if mask is None or mask.all() else _runs(mask, ends)
    if _copy(path, runs, writer) != shard.bin.xxh3:
        raise DataPrepError(_damaged(path))
    kept = documents if mask is None else documents[mask]
    writer.add_lengths(kept["tokens"])
    merged.duplicates += len(documents) - len(kept)
    text_bytes = int(kept["text_bytes"].sum())
    merged.text_bytes += text_bytes
    counts = merged.files[runner.plan.tasks[shard.task].input]
    counts.documents += len(kept)
    counts.tokens += int(kept["tokens"].sum(dtype=np.int64))
    counts.text_bytes += text_bytes
    _count_labels(shard, kept, merged)


def _runs(mask: npt.NDArray[np.bool_], ends: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """The byte ranges of documents in a row that are kept."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    bounds = np.concatenate([[0], ends])
    return [(int(bounds[first]), int(bounds[last])) for first, last in edges.reshape(-1, 2)]


def _copy(path: Path, runs: list[tuple[int, int]], writer: IndexedDatasetWriter) -> str:
    """Copy byte ranges of a shard; the checksum of all of it."""
    if not path.stat().st_size:
        return xxhash.xxh3_128_hexdigest(b"")
    with (
        path.open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ) as mapped,
        memoryview(mapped) as content,
    ):
        digest = xxhash.xxh3_128()
        for start in range(0, len(content), _PIECE):
            digest.update(content[start : start + _PIECE])
        for start, end in runs:
            writer.copy_tokens(stream, content, start, end)
    return digest.hexdigest()


def _count_labels(shard: ShardRecord, kept: npt.NDArray[Any], merged: _Merged) -> None:
    if len(shard.label_sets) <= 1:
        return
    for labels, count in zip(
        shard.label_sets, np.bincount(kept["labels"], minlength=len(shard.label_sets)), strict=True
    ):
        for kind, value in labels:
            merged.labels.setdefault(kind, Counter())[value] += int(count)


def _manifest(
    runner: TaskRunner,
    shards: list[ShardRecord],
    merged: _Merged,
    writer: IndexedDatasetWriter,
    outputs: Outputs,
) -> Manifest:
    tally = Tally()
    for shard in shards:
        tally.records += shard.records
        for name in ("dropped", "repaired", "malformed", "contaminated"):
            getattr(tally, name).update(getattr(shard, name))
        tally.problems.extend(shard.problems[: KEPT_PROBLEMS - len(tally.problems)])
    if merged.duplicates:
        tally.dropped["duplicate"] += merged.duplicates
    config, tokenizer = runner.config, runner.tokenizer
    return Manifest(
        name=config.name,
        source=config.source,
        files=_source_files(runner, shards, merged),
        tokenizer=TokenizerRecord(
            model=config.tokenizer.model,
            sha256=tokenizer.sha256,
            sentencepiece_version=tokenizer.sentencepiece_version,
            vocab_size=tokenizer.vocab_size,
        ),
        append_eod=config.append_eod,
        eod=None if runner.eod is None else EndOfDocument(piece=config.eod, id=runner.eod),
        bos=None
        if config.bos is None or runner.bos is None
        else StartOfDocument(piece=config.bos, id=runner.bos),
        counts=Counts(
            documents=writer.num_documents,
            tokens=writer.num_tokens,
            text_bytes=merged.text_bytes,
            records=tally.records,
            dropped=dict(sorted(tally.dropped.items())),
            repaired=dict(sorted(tally.repaired.items())),
            malformed=dict(sorted(tally.malformed.items())),
            contaminated=dict(sorted(tally.contaminated.items())),
            labels={kind: dict(sorted(counts.items())) for kind, counts in sorted(merged.labels.items())},
        ),
        malformed_records=tally.problems,
        contamination=runner.plan.fingerprint.contamination,
        parameters=config.model_dump(mode="json"),
        outputs=outputs,
        dtype=writer.dtype.name,
    )


def _source_files(runner: TaskRunner, shards: list[ShardRecord], merged: _Merged) -> list[SourceFile]:
    if not runner.source.reads_files:
        return []
    checksums = {
        runner.plan.tasks[shard.task].input: shard.file_sha256 for shard in shards if shard.file_sha256
    }
    return [
        SourceFile(
            path=file.path,
            sha256=checksums[number],
            bytes=file.bytes,
            documents=counts.documents,
            tokens=counts.tokens,
            text_bytes=counts.text_bytes,
        )
        for number, (file, counts) in enumerate(zip(runner.plan.inputs, merged.files, strict=True))
    ]
