"""Files that are whole or absent: written under a partial name beside, fsynced, then renamed.

A kill at any instant leaves either no file under the final name or a complete one. A partial file is
locked while it is written, so that two builds of one corpus cannot mix their bytes; one left behind
by a killed build is not locked any more and the next build takes it over.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, Protocol

from data_prep.errors import DataPrepError

_CHUNK = 1 << 20
_BESIDE = 1 << 20


@functools.cache
def _hasher() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="checksum")


class BeingWrittenError(DataPrepError):
    """Another living process is writing the file."""


def sha256_file(path: Path) -> str:
    """The sha256 (hex) of a file, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def sync_file(path: Path) -> None:
    """Bring to the disk what was written to a file, by whatever library."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def sync_directory(directory: Path) -> None:
    """Make renames in a directory durable; file systems that cannot are left as they are."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


class Digest(Protocol):
    """What hashlib and xxhash have in common."""

    def update(self, data: bytes | memoryview, /) -> None: ...  # noqa: D102
    def hexdigest(self) -> str: ...  # noqa: D102


class PartialFile:
    """A file being written beside its final name, with the checksum and size of what went in.

    `digest` is the checksum (default: sha256).
    Raises `BeingWrittenError` when another living process is writing the same file.
    """

    def __init__(self, final: Path, digest: Digest | None = None) -> None:
        self.final = final
        self.path = final.with_name(final.name + ".partial")
        self.size = 0
        self._digest: Digest = hashlib.sha256() if digest is None else digest
        self._stream = self._open_locked()

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes."""
        size = len(data) if isinstance(data, bytes) else data.nbytes
        if size >= _BESIDE:
            # Writing and hashing large pieces take about the same time, and neither holds the interpreter.
            hashed = _hasher().submit(self._digest.update, data)
            self._stream.write(data)
            hashed.result()
        else:
            self._stream.write(data)
            self._digest.update(data)
        self.size += size

    def copy(self, source: BinaryIO, content: memoryview, start: int, end: int) -> None:
        """Append bytes `start` to `end` of another file; `content` is that file mapped into memory."""
        hashed = _hasher().submit(self._digest.update, content[start:end])
        self._stream.flush()
        try:
            while start < end and (
                copied := os.copy_file_range(source.fileno(), self._stream.fileno(), end - start, start)
            ):
                start += copied
                self.size += copied
        except OSError as error:
            # Older kernels, and file systems that cannot copy between each other.
            if error.errno not in (errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
                raise
        if start < end:
            self._stream.write(content[start:end])
            self.size += end - start
        hashed.result()

    @property
    def checksum(self) -> str:
        """The checksum (hex) of everything written so far."""
        return self._digest.hexdigest()

    def sync(self) -> None:
        """Bring everything written so far to the disk."""
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def publish(self) -> None:
        """Give the file its final name; it must have been synced."""
        self.path.replace(self.final)
        self._stream.close()

    def discard(self) -> None:
        """Remove the partial file; harmless when it was published already."""
        if not self._stream.closed:
            self.path.unlink(missing_ok=True)
            self._stream.close()

    def _open_locked(self) -> BinaryIO:
        while True:
            # Not in append mode, which the kernel's own copying refuses.
            stream = os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666), "wb")
            try:
                fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                stream.close()
                raise BeingWrittenError(
                    f"{self.path}: another process is writing this file now. "
                    "Wait for it to end, or choose another output directory or name."
                ) from None
            except OSError as error:
                # Some network file systems have no locks; there two builds at once are the user's care.
                if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):
                    stream.close()
                    raise
            # Between opening and locking, the owner may have published or removed this very file.
            try:
                same = os.path.samestat(os.fstat(stream.fileno()), self.path.stat())
            except FileNotFoundError:
                same = False
            if same:
                stream.truncate(0)
                return stream
            stream.close()


def write_whole(path: Path, data: bytes) -> None:
    """Write a small file so that it is whole or absent under its name."""
    partial = PartialFile(path)
    try:
        partial.write(data)
        partial.sync()
        partial.publish()
    finally:
        partial.discard()
    sync_directory(path.parent)
