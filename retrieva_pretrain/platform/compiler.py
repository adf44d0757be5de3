"""What torch.compile needs on this machine before its first kernel: asked early, because it fails late and long.

megatron-core's fusions and `kernels.compile_layers` go through torch.compile. On CUDA it writes Triton kernels, and Triton
builds its launcher with a C compiler and Python's headers (triton 3.6, `runtime/build.py`); on the CPU inductor writes
C++.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from importlib.util import find_spec
from pathlib import Path


def missing_for_triton() -> str | None:
    """Return what is missing to compile for CUDA; None where nothing is."""
    if find_spec("triton") is None:
        return "the package triton"
    if _compiler("CC", ("cc", "gcc", "clang")) is None:
        return "a C compiler (gcc or clang, or its path in CC)"
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
        return "Python's headers (Python.h; the package python3-dev or python3-devel)"
    return None


def missing_for_cpp() -> str | None:
    """Return what is missing to compile for the CPU; None where nothing is."""
    if _compiler("CXX", ("g++", "clang++")) is None:
        return "a C++ compiler (g++ or clang++, or its path in CXX)"
    return None


def _compiler(variable: str, names: tuple[str, ...]) -> str | None:
    chosen = os.environ.get(variable)
    candidates = (chosen,) if chosen else names
    return next((found for name in candidates if (found := shutil.which(name))), None)
