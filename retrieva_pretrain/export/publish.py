"""A directory that is whole or absent: made under a hidden name beside, brought to the disk, renamed."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from data_prep.whole_files import sync_directory, sync_file
from retrieva_pretrain.errors import RetrievaError


def refuse_existing(out: Path) -> None:
    """Raise RetrievaError where something stands under the name already; an empty folder does not count."""
    if out.is_dir() and not out.is_symlink():
        if any(out.iterdir()):
            raise RetrievaError(f"{out}: is there and not empty; give another folder, or remove it.")
    elif out.exists() or out.is_symlink():
        raise RetrievaError(f"{out}: is there and no folder; give another name.")


@contextmanager
def whole_directory(out: Path) -> Iterator[Path]:
    """Yield a folder to fill, which becomes `out` when the block ends well and is removed when it does not.

    What a killed call left beside is removed as well; the folder's lock tells it from one that is being filled.

    Raises:
        RetrievaError: something stands under the name already.
    """
    refuse_existing(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    for leftover in out.parent.glob(f".{out.name}.*.partial"):
        with suppress(OSError), _lock(leftover):
            shutil.rmtree(leftover, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
    held = ExitStack()
    with suppress(OSError):  # a file system without locks
        held.enter_context(_lock(folder))
    try:
        yield folder
        for path in folder.rglob("*"):
            if path.is_file():
                path.chmod(0o666 & ~_umask())  # safetensors and mkdtemp let nobody else read
                sync_file(path)
            else:
                sync_directory(path)
        folder.chmod(0o777 & ~_umask())
        sync_directory(folder)
        refuse_existing(out)
        folder.rename(out)
        sync_directory(out.parent)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        held.close()


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
