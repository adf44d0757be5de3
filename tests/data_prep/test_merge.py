"""Merging past 2^31 bytes, with memory for the index alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.build.merge import merge
from data_prep.build.plan import Input, Task, fingerprint, make_plan
from data_prep.build.shard import DOCUMENT, ShardFile, ShardRecord, shard_path
from data_prep.build.task import TaskRunner
from data_prep.indexed import IndexedDataset
from data_prep.tokenizer import Tokenizer

pytestmark = pytest.mark.slow


def write_sparse_shard(folder: Path, number: int, documents: int, length: int, last_token: int) -> None:
    """Write a task's shard of documents of `length` tokens, two bytes each, of which the last token alone is written."""
    import xxhash

    rows = np.zeros(documents, DOCUMENT)
    rows["tokens"] = length
    rows["text_bytes"] = 3 * length
    size = documents * length * 2
    digest = xxhash.xxh3_128()
    with shard_path(folder, number, 0, "bin").open("w+b") as stream:
        stream.truncate(size)
        stream.seek(size - 2)
        stream.write(np.array([last_token], "<u2").tobytes())
        stream.seek(0)
        while piece := stream.read(1 << 24):
            digest.update(piece)
    shard_path(folder, number, 0, "docs").write_bytes(rows.tobytes())
    record = ShardRecord(
        task=number,
        part=0,
        end_position=0,
        end_records=0,
        last=True,
        records=documents,
        documents=documents,
        tokens=documents * length,
        text_bytes=3 * documents * length,
        dropped={},
        repaired={},
        malformed={},
        contaminated={},
        problems=[],
        label_sets=[[]],
        bin=ShardFile(xxh3=digest.hexdigest(), bytes=size),
        documents_file=ShardFile(xxh3=xxhash.xxh3_128_hexdigest(rows.tobytes()), bytes=rows.nbytes),
        file_sha256="0" * 64,
    )
    shard_path(folder, number, 0, "json").write_text(record.model_dump_json())


def test_shards_past_2_to_the_31_bytes_are_merged(tmp_path: Path, configure: Any, write_jsonl: Any) -> None:
    if shutil.disk_usage(tmp_path).free < 8 << 30:
        pytest.skip("8 GB of free space are needed for a corpus past 2^31 tokens")
    config = configure(write_jsonl(tmp_path / "a.jsonl", ["abc"]))
    tokenizer = Tokenizer(config.tokenizer.model)
    path = tmp_path / "a.jsonl"
    inputs = [Input(path=str(path), bytes=path.stat().st_size, mtime_ns=path.stat().st_mtime_ns)]
    plan = make_plan(config, config.open_source(), inputs, fingerprint(config, tokenizer, None), 1 << 26)
    documents, length = 110, 10_000_000
    tasks = [Task(number=number, input=0, start=number, end=None, bytes=1) for number in (0, 1)]
    plan = plan.model_copy(update={"tasks": tasks})
    for task in tasks:
        # Sparse: 2.2 GB each.
        write_sparse_shard(tmp_path, task.number, documents, length, last_token=9 + task.number)
    manifest = merge(
        TaskRunner(config, plan, tmp_path, tokenizer=tokenizer), tmp_path / "corpus", lambda _: None
    )
    assert manifest.counts.tokens == 2 * documents * length > 2**31
    assert manifest.outputs.bin.bytes > 2**32
    merged = IndexedDataset(tmp_path / "corpus")
    assert merged.document(documents - 1)[-1] == 9
    assert merged.document(2 * documents - 1)[-1] == 10
    assert merged.document_lengths().tolist() == [length] * (2 * documents)
    theirs = pytest.importorskip("megatron.core.datasets.indexed_dataset").IndexedDataset(
        str(tmp_path / "corpus")
    )
    assert int(theirs[2 * documents - 1][-1]) == 10
