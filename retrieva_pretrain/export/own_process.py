"""Calls in a process of their own: its memory is given back, and what they change in libraries stays there.

megatron-core on the CPU answers for CUDA in the whole process (`platform/host.py`), which transformers must not meet;
and the two models of a parity check are never in memory together.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from importlib import import_module
from multiprocessing import get_context
from typing import Any, Protocol

from retrieva_pretrain.errors import RetrievaError

# Processes of a run inherit these; a process of one must not take itself for one of them.
_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


class Call(Protocol):
    """Calls a function by its name in a module of this package's export."""

    def __call__(self, module: str, function: str, *arguments: Any) -> Any:
        """Return what it returns, or raise what it raises."""


@contextmanager
def own_process() -> Iterator[Call]:
    """Start a process, without GPUs, that makes the calls of the block one after the other.

    Functions are named, not given: nothing heavy is then loaded here.

    Raises:
        RetrievaError: the process was killed, as happens where memory runs out.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_prepare) as pool:

        def call(module: str, function: str, *arguments: Any) -> Any:
            try:
                return pool.submit(_call, module, function, *arguments).result()
            except BrokenProcessPool:
                raise RetrievaError(
                    f"the process of {function} was killed; most often memory ran out. The model in fp32 must fit (4"
                    " bytes a parameter, and some for activations)."
                ) from None

        yield call


def _prepare() -> None:
    # The same on every machine: fp32 on a GPU would compare its kernels, not the weights.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    for name in _TORCHRUN:
        os.environ.pop(name, None)
    from retrieva_pretrain.platform.quiet import quiet_upstream

    quiet_upstream()


def _call(module: str, function: str, *arguments: Any) -> Any:
    return getattr(import_module(f"retrieva_pretrain.export.{module}"), function)(*arguments)
