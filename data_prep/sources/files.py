"""Which files the patterns of a corpus mean, and reading them whatever they are compressed with.

The compression is told by the first bytes, not by the name: downloads lose and gain suffixes.
"""

from __future__ import annotations

import bz2
import io
import lzma
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol, cast

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
    """'gzip', 'bzip2', 'zstd', 'xz' or None, by the first bytes of the file.

    Raises `DataPrepError` for a file that is named as compressed and is not.
    """
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
    if path.suffix in (".gz", ".bz2", ".zst", ".xz"):
        what = f"not {path.suffix[1:]} data" if head else "empty"
        raise DataPrepError(f"{path}: {what}, though its name says so. Download or copy it again.")
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
    with _reported(path), open_counted(path) as (stream, _):
        yield stream


@contextmanager
def open_counted(path: Path) -> Iterator[tuple[BinaryIO, Callable[[], int]]]:
    """As `open_decompressed`, with a function that tells how many bytes of the file were read so far.

    Damage met inside the block is left to the caller: `EOFError` where the file was cut short,
    `DamagedDataError` where the data are no compressed data any more.
    """
    with _reported(path):
        kind = compression(path)
        raw = path.open("rb", buffering=_RAW_BUFFER)
    with raw:
        yield _decompressed(raw, kind), raw.tell


def _decompressed(raw: BinaryIO, kind: str | None) -> BinaryIO:
    if kind is None:
        return raw
    return io.BufferedReader(_FramesReader(raw, _DECOMPRESSORS[kind]), _RAW_BUFFER)


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    try:
        yield
    except EOFError:
        raise DataPrepError(
            f"{path}: the compressed data end too early; the file was cut short. Download or copy it again."
        ) from None
    except DamagedDataError as error:
        raise DataPrepError(
            f"{path}: damaged compressed data ({error}). Download or copy it again."
        ) from None
    except OSError as error:
        raise DataPrepError(f"{path}: cannot be read: {error.strerror or error}.") from None


class DamagedDataError(Exception):
    """Compressed data that no decompressor takes."""


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


def _zstd() -> _Decompressor:
    import zstandard

    # 2^31 is what `zstd --long=31` writes, and pretraining corpora do come like that.
    return cast(_Decompressor, zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj())


def _gzip() -> _Decompressor:
    # ISA-L inflates about three times as fast as zlib.
    from isal import isal_zlib

    return cast(_Decompressor, isal_zlib.decompressobj(wbits=31))


_DECOMPRESSORS: dict[str, Callable[[], _Decompressor]] = {
    "gzip": _gzip,
    "bzip2": bz2.BZ2Decompressor,
    "xz": lzma.LZMADecompressor,
    "zstd": _zstd,
}


class _FramesReader(io.RawIOBase):
    """Compressed frames (gzip members, bz2 streams) in a row.

    The libraries' own file objects lose, with the error, what they had inflated of a file that was cut
    short, and how much depends on the size of the reads; this one gives every byte that is there. An
    `EOFError` follows the last of them, or `DamagedDataError`.
    """

    def __init__(self, raw: BinaryIO, new: Callable[[], _Decompressor]) -> None:
        self._raw = raw
        self._new = new
        self._frame = new()
        self._inside = False
        self._ready = memoryview(b"")
        self._compressed = b""

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
        if not self._inside and not self._compressed.strip(b"\0"):
            # Zeros behind the last frame are padding (tape blocks), which every tool passes over.
            self._compressed = b""
            return True
        try:
            self._ready = memoryview(self._frame.decompress(self._compressed))
        except Exception as error:  # each of the four libraries has its own
            raise DamagedDataError(str(error)) from None
        self._inside = not self._frame.eof
        self._compressed = b"" if self._inside else self._frame.unused_data
        if not self._inside:
            self._frame = self._new()
        return True
