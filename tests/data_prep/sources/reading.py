"""Reads files through a source, and writes them compressed."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zstandard

from data_prep.sources import Document, Dropped, open_source
from data_prep.sources.records import Malformed

TEXTS = ["一行目\n二行目\t終わり", "second\u2028still second", "셋째 \U0001f427", " "]


def read(name: str, path: Path, /, **options: Any) -> tuple[list[str], Counter[str]]:
    records = list(open_source(name, options).read(path))
    dropped = Counter(record.reason for record in records if isinstance(record, Dropped))
    return [record.text for record in records if isinstance(record, Document)], dropped


def problems(name: str, path: Path, /, **options: Any) -> list[str]:
    records = open_source(name, options).read(path)
    return [str(record) for record in records if isinstance(record, Malformed)]


def lines(column: str, texts: list[str]) -> bytes:
    return "".join(json.dumps({"id": 1, column: text}, ensure_ascii=False) + "\n" for text in texts).encode()


def _zstd_without_size(data: bytes) -> bytes:
    compressor = zstandard.ZstdCompressor(write_checksum=True).compressobj()
    return compressor.compress(data) + compressor.flush()


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
    ".streamed.zst": _zstd_without_size,
}
