"""Which files the patterns of a corpus mean, and reading them whatever they are compressed with.

The compression is told by the first bytes, not by the name: downloads lose and gain suffixes.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from data_prep.errors import DataPrepError

_MAGIC_LENGTH = 10
_RAW_BUFFER = 1 << 18


def expand(patterns: Sequence[str]) -> list[Path]:
    """The files the patterns match, sorted by path, each once however often it is matched.

    Raises `DataPrepError` naming the pattern that matches no file.
    """
    found: dict[str, Path] = {}
    for pattern in patterns:
        path = Path(pattern).expanduser()
        # A name with brackets in it is a file first and a pattern second.
        matches = [str(path)] if path.exists() else _matches(str(path))
        files = [Path(match) for match in matches if Path(match).is_file()]
        if not files:
            raise DataPrepError(_no_match(pattern, matches))
        for file in sorted(files):
            found.setdefault(os.path.realpath(file), file)
    return sorted(found.values())


def _matches(pattern: str) -> list[str]:
    # `Path.glob` takes no absolute pattern.
    import glob

    return glob.glob(pattern, recursive=True)  # noqa: PTH207


def _no_match(pattern: str, matches: Sequence[str]) -> str:
    if matches:
        return f"files: {pattern} is a directory. Name the files in it, for instance {pattern.rstrip('/')}/*"
    if "://" in pattern:
        return f"files: {pattern} is not a local path. Download the files first, or use source: hf_dataset."
    return (
        f"files: {pattern} matches no file. Check the path; relative ones start at the working "
        f"directory, {Path.cwd()}"
    )


def compression(path: Path) -> str | None:
    """'gzip', 'bzip2', 'zstd', 'xz' or None, by the first bytes of the file."""
    with _reported(path), path.open("rb") as stream:
        head = stream.read(_MAGIC_LENGTH)
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    if head.startswith(b"BZh") and head[4:] in (b"\x31\x41\x59\x26\x53\x59", b"\x17\x72\x45\x38\x50\x90"):
        return "bzip2"
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        return "zstd"
    if head.startswith(b"\xfd7zXZ\x00"):
        return "xz"
    return None


def is_parquet(path: Path) -> bool:
    """Whether the file starts as parquet does."""
    with _reported(path), path.open("rb") as stream:
        return stream.read(4) == b"PAR1"


@contextmanager
def open_decompressed(path: Path) -> Iterator[BinaryIO]:
    """The decompressed bytes of a file; several streams in a row (multistream dumps) are read as one.

    Raises `DataPrepError` naming the file, also from reads inside the block, when it is cut short or damaged.
    """
    with _reported(path):
        kind = compression(path)
        if kind is None and path.suffix in (".gz", ".bz2", ".zst", ".xz"):
            what = "empty" if path.stat().st_size == 0 else f"not {path.suffix[1:]} data"
            raise DataPrepError(f"{path}: {what}, though its name says so. Download or copy it again.")
        with path.open("rb", buffering=_RAW_BUFFER) as raw:
            if kind == "gzip":
                yield io.BufferedReader(gzip.GzipFile(fileobj=raw), _RAW_BUFFER)
            elif kind == "bzip2":
                yield io.BufferedReader(cast(io.RawIOBase, bz2.BZ2File(raw)), _RAW_BUFFER)
            elif kind == "xz":
                yield io.BufferedReader(cast(io.RawIOBase, lzma.open(raw)), _RAW_BUFFER)  # noqa: SIM115 - `raw` closes it
            elif kind == "zstd":
                yield io.BufferedReader(_ZstdReader(raw), _RAW_BUFFER)
            else:
                yield raw


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    try:
        yield
    except EOFError:
        raise DataPrepError(
            f"{path}: the compressed data end too early; the file was cut short. Download or copy it again."
        ) from None
    except (gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise DataPrepError(
            f"{path}: damaged compressed data ({error}). Download or copy it again."
        ) from None
    except OSError as error:
        # bz2 reports damage as an OSError without a number.
        what = error.strerror or f"damaged compressed data ({error})"
        raise DataPrepError(f"{path}: cannot be read: {what}.") from None


class _ZstdReader(io.RawIOBase):
    """Frames in a row, with an error where the last one is cut short.

    zstandard's own stream reader ends silently there.
    """

    def __init__(self, raw: BinaryIO) -> None:
        import zstandard

        self._raw = raw
        # 2^31 is what `zstd --long=31` writes, and pretraining corpora do come like that.
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=2**31)
        self._frame = self._decompressor.decompressobj()
        self._inside = False
        self._ready = b""
        self._compressed = b""
        self._error = zstandard.ZstdError

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while not self._ready and self._advance():
            pass
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size

    def _advance(self) -> bool:
        """Decompress one more piece into `_ready`; False at the end of the file."""
        if not self._compressed:
            self._compressed = self._raw.read(_RAW_BUFFER >> 3)
            if not self._compressed:
                if self._inside:
                    raise EOFError
                return False
        try:
            self._ready = self._frame.decompress(self._compressed)
        except self._error as error:
            raise OSError(str(error)) from None
        self._inside = not self._frame.eof
        self._compressed = b"" if self._inside else self._frame.unused_data
        if not self._inside:
            self._frame = self._decompressor.decompressobj()
        return True
