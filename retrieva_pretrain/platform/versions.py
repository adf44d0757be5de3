"""The versions of CUDA and NCCL that torch was built with."""

from __future__ import annotations

import torch


def cuda_version() -> str:
    """Return CUDA's, empty in a build for the CPU."""
    return torch.version.cuda or ""


def nccl_version() -> str:
    """Return NCCL's, empty where there is no CUDA."""
    if not torch.cuda.is_available():
        return ""
    return ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]
