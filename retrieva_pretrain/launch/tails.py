"""The ends of files that may be gigabytes long."""

from __future__ import annotations

from pathlib import Path


def read_tail(path: Path, size: int = 20_000) -> str:
    """Return the last `size` bytes of a file as text; nothing where there is none or it cannot be read."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - size))
            return stream.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
