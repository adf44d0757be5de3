"""Numbers worked out once and kept in a file, which all processes of a machine map into memory.

The file holds a header (one line of JSON: what the numbers were made of; padded with spaces to 4 KiB or a
multiple), the numbers (int64, little-endian) and the XXH3-128 of everything before. It is whole or absent under
its name. One of another size, header or checksum is not trusted: it counts as absent and is made again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from data_prep.whole_files import BeingWrittenError, PartialFile, sync_directory
from retrieva_pretrain.errors import CorpusError

Integers = NDArray[np.int64]

_PAGE = 4096
_CHECKSUM_BYTES = 16
_LOOK_AGAIN_SECONDS = 0.1


class IndexFile:
    """One such file, there or not."""

    def __init__(self, path: Path, made_of: Mapping[str, Any], count: int) -> None:
        """Take its path, everything that decides the numbers (for JSON), and how many of them there are."""
        self.path = path
        self.count = count
        line = json.dumps({"format": "retrieva index 1", **made_of, "count": count}, sort_keys=True)
        self._header = line.encode().ljust(-(-(len(line) + 1) // _PAGE) * _PAGE - 1) + b"\n"

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return len(self._header) + 8 * self.count + _CHECKSUM_BYTES

    def read(self) -> Integers | None:
        """Return the numbers, mapped and read-only, int64 [count]; None where the file is absent or not whole.

        The checksum is compared every time: 50 MB take 10 ms where the machine has read them before.
        """
        try:
            if self.path.stat().st_size != self.size:
                return None
            # Not a memmap to the outside: it would be slower to index, and copied whole when pickled.
            content = np.asarray(np.memmap(self.path, dtype=np.uint8, mode="r"))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CorpusError(
                f"data.index_dir: {self.path} cannot be read ({error.strerror or error}). Name another folder in"
                " data.index_dir, or mend this one."
            ) from None
        if content.nbytes != self.size or content[: len(self._header)].tobytes() != self._header:
            return None
        checksum = xxhash.xxh3_128(content[:-_CHECKSUM_BYTES].data).digest()
        if checksum != content[-_CHECKSUM_BYTES:].tobytes():
            return None
        return content[len(self._header) : -_CHECKSUM_BYTES].view("<i8")

    def ensure(
        self, make: Callable[[], Iterator[Integers]], on_wait: Callable[[], None] | None = None
    ) -> tuple[Integers, bool]:
        """Return the numbers, and whether it was this process that had to make them.

        Of several processes one makes the file and the others wait; where that one is killed another takes
        over. `make` yields the numbers in pieces; `on_wait` is called now and then while another one is at it.

        Raises:
            CorpusError: the file cannot be written.
        """
        while (values := self.read()) is None:
            try:
                if self._write(make):
                    values = self.read()
                    if values is None:
                        raise CorpusError(
                            f"{self.path}: what was written is not what is read back; see to the disk."
                        )
                    return values, True
            except BeingWrittenError:
                if on_wait is not None:
                    on_wait()
                time.sleep(_LOOK_AGAIN_SECONDS)
            except OSError as error:
                raise CorpusError(
                    f"data.index_dir: the index of the documents' order cannot be written to {self.path}"
                    f" ({error.strerror or error}). Name a folder that can be written to in data.index_dir, or"
                    " run `retrieva data index` where this one can."
                ) from None
        return values, False

    def _write(self, make: Callable[[], Iterator[Integers]]) -> bool:
        """Make and write the file, unless another process has just done so."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = PartialFile(self.path, xxhash.xxh3_128())
        try:
            if self.read() is not None:
                return False
            partial.write(self._header)
            for piece in make():
                partial.write(piece.astype("<i8", copy=False).tobytes())
            if partial.size != self.size - _CHECKSUM_BYTES:
                raise AssertionError(f"{partial.size} bytes where {self.count} numbers were promised")
            partial.write(bytes.fromhex(partial.checksum))
            partial.sync()
            partial.publish()
        finally:
            partial.discard()
        sync_directory(self.path.parent)
        return True
