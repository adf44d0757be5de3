"""What makes a checkpoint on disk whole: `checkpoint.json`, with the size and checksum of every file. No torch.

{
  "step": 31000, "world_size": 32, "versions": {"megatron-core": "0.16.1", ...},
  "identity": {...},                     what of the recipe no restart may change (recipe/identity.py)
  "state": {...},                        what the run remembers beside tensors
  "files": {"__0_0.distcp": {"size": 123, "xxh3_128": "..."}, ...},
  "checksum": "..."                      xxh3_128 of everything above, as JSON with sorted keys
}
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import xxhash

from data_prep.whole_files import sync_directory
from retrieva_pretrain.errors import CheckpointError

DESCRIPTION = "checkpoint.json"
_PIECE = 1 << 22
_THREADS = 4
_READ_AGAIN_AFTER = 1.0, 5.0
# The types of the fields, so that a file of another shape is told apart from a checkpoint's.
_FIELDS = {"step": int, "world_size": int, "versions": dict, "identity": dict, "state": dict, "files": dict}


class DamagedCheckpointError(CheckpointError):
    """A checkpoint that cannot be used; the message names the file and what is wrong with it."""


def file_sum(path: Path) -> dict[str, Any]:
    """Return the size and checksum of a file as `checkpoint.json` lists them."""
    digest, size = xxhash.xxh3_128(), 0
    with path.open("rb", buffering=0) as stream:
        while piece := stream.read(_PIECE):
            digest.update(piece)
            size += len(piece)
    return {"size": size, "xxh3_128": digest.hexdigest()}


def write_description(checkpoint: Path, content: dict[str, Any]) -> None:
    """Write `checkpoint.json`, the last file of a checkpoint, and bring it and the folder's names to the disk."""
    text = json.dumps({**content, "checksum": _own_sum(content)}, indent=1, ensure_ascii=False)
    with (checkpoint / DESCRIPTION).open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    sync_directory(checkpoint)


def read_description(checkpoint: Path) -> dict[str, Any]:
    """Read `checkpoint.json`.

    Raises:
        DamagedCheckpointError: it is missing, unreadable, of another shape, or not what was written.
    """
    try:
        content = json.loads((checkpoint / DESCRIPTION).read_bytes().decode("utf-8"))
    except FileNotFoundError:
        raise DamagedCheckpointError(f"{DESCRIPTION} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedCheckpointError(f"{DESCRIPTION} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise DamagedCheckpointError(f"{DESCRIPTION} holds a {type(content).__name__}, not a mapping")
    for field, kind in _FIELDS.items():
        if type(content.get(field)) is not kind:
            raise DamagedCheckpointError(f"{DESCRIPTION}: `{field}` is missing or not a {kind.__name__}")
    for name, entry in content["files"].items():
        if not isinstance(entry, dict) or [type(entry.get(k)) for k in ("size", "xxh3_128")] != [int, str]:
            raise DamagedCheckpointError(f"{DESCRIPTION}: files.{name} is not a size and a checksum")
    if content.pop("checksum", None) != _own_sum(content):
        raise DamagedCheckpointError(f"{DESCRIPTION} is not what was written: its own checksum differs")
    return content


def find_damage(checkpoint: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None where all files are there in their full size.

    Cheap, for contents are not read: `find_corruption` does that.
    """
    try:
        files = read_description(checkpoint)["files"]
    except DamagedCheckpointError as damage:
        return str(damage)
    for name, entry in files.items():
        try:
            size = (checkpoint / name).stat().st_size
        except OSError as error:
            return f"{name} is missing or unreadable ({error.strerror})"
        if size != entry["size"]:
            return f"{name} has {size} bytes instead of {entry['size']}"
    return None


def find_corruption(
    checkpoint: Path, names: Iterable[str], progress: Callable[[int], None] = lambda size: None
) -> str | None:
    """Read files of a checkpoint and return what is wrong with one of them, or None where all are as written.

    `progress` is told the size of each file that was read.
    """
    files = read_description(checkpoint)["files"]
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="checksum") as pool:
        # xxhash lets go of the interpreter while it hashes a large piece.
        waiting = {pool.submit(_differs, checkpoint / name, files[name]): name for name in names}
        found = None
        for done in as_completed(waiting):
            found = found or done.result()
            progress(files[waiting[done]]["size"])
    return found


def share_of_files(checkpoint: Path, rank: int, world_size: int) -> list[str]:
    """Return the files that one process of many checks: large ones first, dealt out in turn."""
    files = read_description(checkpoint)["files"]
    return sorted(files, key=lambda name: (-files[name]["size"], name))[rank::world_size]


def _differs(path: Path, entry: dict[str, Any]) -> str | None:
    # Network file systems stumble and recover: one refusal is not yet a damaged checkpoint.
    for pause in (*_READ_AGAIN_AFTER, None):
        try:
            found = file_sum(path)
            break
        except OSError as error:
            if pause is None or isinstance(error, FileNotFoundError):
                return f"{path.name} cannot be read ({error.strerror})"
            time.sleep(pause)
    if found["size"] != entry["size"]:
        return f"{path.name} has {found['size']} bytes instead of {entry['size']}"
    if found["xxh3_128"] != entry["xxh3_128"]:
        return f"{path.name} is not what was written: its checksum differs"
    return None


def _own_sum(content: dict[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(content, sort_keys=True).encode("ascii"))
