"""Files that are whole or absent: written under a partial name beside, fsynced, then renamed.

A kill at any instant leaves either no file under the final name or a complete one. A partial file is
locked while it is written, so that two builds of one corpus cannot mix their bytes; one left behind
by a killed build is not locked any more and the next build takes it over.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from pathlib import Path
from typing import BinaryIO

from data_prep.errors import DataPrepError

_CHUNK = 1 << 20


def sha256_file(path: Path) -> str:
    """The sha256 (hex) of a file, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


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


class PartialFile:
    """A file being written beside its final name, with the sha256 and size of what went in.

    Raises `DataPrepError` when another living process is writing the same file.
    """

    def __init__(self, final: Path) -> None:
        self.final = final
        self.path = final.with_name(final.name + ".partial")
        self.size = 0
        self._digest = hashlib.sha256()
        self._stream = self._open_locked()

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes."""
        self._stream.write(data)
        self._digest.update(data)
        self.size += len(data) if isinstance(data, bytes) else data.nbytes

    @property
    def sha256(self) -> str:
        """The sha256 (hex) of everything written so far."""
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
            stream = self.path.open("ab")
            try:
                fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                stream.close()
                raise DataPrepError(
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
