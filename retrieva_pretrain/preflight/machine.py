"""What one process finds on its node without torch: versions, GPUs as nvidia-smi sees them, files, disk."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from retrieva_pretrain.optional_packages import optional_packages

_PACKAGES = {
    "torch": "torch",
    "megatron-core": "megatron-core",
    "Transformer Engine": "transformer-engine",
    "Apex": "apex",
    "flash-attention": "flash-attn",
}
_GPU_FIELDS = {
    "name": "name",
    "driver": "driver_version",
    "temperature": "temperature.gpu",
    "clock": "clocks.sm",
    "highest_clock": "clocks.max.sm",
    "uncorrected_errors": "ecc.errors.uncorrected.volatile.total",
    "slowdown": "clocks_throttle_reasons.hw_slowdown",
    "power_limit": "power.limit",
}
_READ_BYTES = 2**28


def versions() -> dict[str, str]:
    """Return the versions of what training uses; a package that is not there is left out."""
    found = {"Python": ".".join(map(str, sys.version_info[:3]))}
    usable = optional_packages()
    for name, package in _PACKAGES.items():
        # PyPI has another package of Apex's name.
        if not usable.get(name, True):
            continue
        try:
            found[name] = version(package)
        except PackageNotFoundError:
            continue
    return found


def gpu_health(local_rank: int) -> dict[str, str] | None:
    """Ask nvidia-smi for the GPU of a local rank; None where there is no nvidia-smi or no such GPU."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible is not None else None
    if devices is not None and (local_rank >= len(devices) or not devices[local_rank].strip()):
        return None
    device = devices[local_rank].strip() if devices is not None else str(local_rank)
    query = f"--query-gpu={','.join(_GPU_FIELDS.values())}"
    try:
        done = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader,nounits", f"--id={device}"],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return dict(zip(_GPU_FIELDS, (value.strip() for value in done.stdout.split(",")), strict=False))


def leave_a_sign(folder: Path, token: str) -> dict[str, Any]:
    """Look for the file that the submitting machine has written, and see whether this node may write there."""
    try:
        seen = (folder / "token").read_text(encoding="utf-8") == token
        (folder / f"seen-by-{socket.gethostname()}-{os.environ.get('RANK', '0')}").write_text(
            token, encoding="utf-8"
        )
    except OSError as error:
        return {"seen": False, "error": str(error)}
    return {"seen": seen}


def read_rate(files: list[Path]) -> dict[str, Any]:
    """Read the beginning of the largest files and return the rate in GB/s, past this machine's cache."""
    total, started = 0, time.perf_counter()
    for path in sorted(files, key=lambda p: -p.stat().st_size):
        with path.open("rb", buffering=0) as stream:
            # What is in this machine's memory already says nothing of the file system.
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while total < _READ_BYTES and (block := stream.read(2**22)):
                total += len(block)
        if total >= _READ_BYTES:
            break
    return {"bytes": total, "gb_per_second": total / 1e9 / max(time.perf_counter() - started, 1e-9)}


def free_space(folder: Path) -> int:
    """Return the free bytes where a folder is, or will be."""
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free
