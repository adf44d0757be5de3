"""One call in a process of its own: its memory is given back, and what it changes in its libraries stays there.

megatron-core on the CPU answers for CUDA in the whole process (`platform/host.py`), which transformers must not meet;
and the two models of a parity check are never in memory together.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, TypeVar

from retrieva_pretrain.errors import RetrievaError

T = TypeVar("T")
# Processes of a run inherit these; a process of one must not take itself for one of them.
_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def in_own_process(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function of a module in a new process, without GPUs, and return what it returns or raise what it raises.

    Raises:
        RetrievaError: the process was killed, as happens where memory runs out.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_prepare) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except BrokenProcessPool:
            raise RetrievaError(
                f"the process of {function.__name__} was killed; most often memory ran out. The model in fp32 must fit"
                " (4 bytes a parameter, and some for activations)."
            ) from None


def _prepare() -> None:
    # The same on every machine: fp32 on a GPU would compare its kernels, not the weights.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    for name in _TORCHRUN:
        os.environ.pop(name, None)
    from retrieva_pretrain.platform.quiet import quiet_upstream

    quiet_upstream()
