"""Where the host waits for the device: one place that reads from it, and a count of every wait.

A step is fast while the host stays ahead of the device. Each read of something that the device computes (`.item()`,
`nonzero()`, a tensor in an `if`) lets the queue run empty. `count_waits` finds them in upstream's code too:

    with count_waits() as waits:
        stepper.train_step(step)
    assert len(waits) <= 1, waits

On CUDA torch itself reports them (`torch.cuda.set_sync_debug_mode`). On the CPU nothing waits, and the calls that
would on CUDA are found by their kind, in the thread that counts and in its backward passes. What cannot be told there:
whether a tensor would be on the device, for which reason places that are known to read host memory are left out, and
a copy to the device whose target is not named in the call.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# (end of the file's path, function): reads of states of random generators, which are host memory on CUDA too.
_READ_HOST_MEMORY = (("megatron/core/tensor_parallel/random.py", "fork"),)

_TORCH = str(Path(torch.__file__).parent)
_OWN_FILES = (__file__, str(Path(__file__).with_name("host.py")))
_CUDA_MESSAGE = "called a synchronizing CUDA operation"


class CountsReads:
    """The part of a platform that reads from the device, and counts how often."""

    def __init__(self) -> None:
        self.reads = 0

    def read(self, tensor: torch.Tensor) -> list[float]:
        """Return what a tensor [n] on the device holds; waits until it is computed."""
        self.reads += 1
        return [float(value) for value in tensor.tolist()]


@dataclass(frozen=True)
class Wait:
    """One wait of the host for the device."""

    what: str
    """The call or operator that waits."""

    where: str
    """The innermost place outside torch: `file:line function`."""


@contextmanager
def count_waits() -> Iterator[list[Wait]]:
    """Collect the waits of the code inside, in their order; the list is complete when the block ends."""
    waits: list[Wait] = []
    with ExitStack() as stack:
        stack.enter_context(_counted_synchronize(waits))
        if torch.cuda.is_available():
            stack.enter_context(_cuda_reports(waits))
        else:
            stack.enter_context(_Calls(waits))
            stack.enter_context(_Operators(waits))
        yield waits


@contextmanager
def _counted_synchronize(waits: list[Wait]) -> Iterator[None]:
    """Count `torch.cuda.synchronize`, which torch's report leaves out."""
    cuda: Any = torch.cuda
    before = cuda.synchronize

    def synchronize(device: Any = None) -> None:
        _note(waits, "torch.cuda.synchronize")
        before(device)

    cuda.synchronize = synchronize
    try:
        yield
    finally:
        cuda.synchronize = before


@contextmanager
def _cuda_reports(waits: list[Wait]) -> Iterator[None]:
    """Let torch warn of every wait, and take its warnings; others are shown as always."""
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.filterwarnings("always", message=f".*{_CUDA_MESSAGE}")
        show = warnings.showwarning

        def take(message: Warning | str, *rest: Any, **options: Any) -> None:
            if _CUDA_MESSAGE in str(message):
                _note(waits, "a wait that torch reported")
            else:
                show(message, *rest, **options)

        warnings.showwarning = take
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(mode)


class _Calls(TorchFunctionMode):
    """Sees calls that read memory directly, without an operator, and copies from pageable memory."""

    _READS = (torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.cpu)
    _MAKE = (torch.tensor, torch.as_tensor)

    def __init__(self, waits: list[Wait]) -> None:
        super().__init__()
        self._waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self._READS:
            _note(self._waits, f"Tensor.{func.__name__}")
        elif func in self._MAKE and kwargs.get("device") is not None:
            _note(self._waits, f"torch.{func.__name__} on a device")
        elif func in (torch.Tensor.to, torch.Tensor.cuda) and not kwargs.get("non_blocking"):
            targets = [a for a in (*args[1:], kwargs.get("device")) if isinstance(a, (torch.device, str))]
            if targets or func is torch.Tensor.cuda:
                _note(self._waits, f"Tensor.{func.__name__} to a device, not non_blocking")
        return func(*args, **kwargs)


# Operators whose result's size or value the host must know.
_OPERATORS = frozenset(
    {
        "aten::_local_scalar_dense",
        "aten::is_nonzero",
        "aten::nonzero",
        "aten::masked_select",
        "aten::equal",
        "aten::bincount",
        "aten::repeat_interleave",
        "aten::_unique2",
        "aten::unique_dim",
        "aten::unique_consecutive",
    }
)
_INDEX_READS = frozenset({"aten::index", "aten::_unsafe_index"})
_INDEX_WRITES = frozenset({"aten::index_put", "aten::index_put_", "aten::_index_put_impl_"})


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees those operators, in backward passes too."""

    def __init__(self, waits: list[Wait]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._waits = waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        # One value under a mask is filled in place, without counting the mask's positions.
        is_index = name in _INDEX_READS or (name in _INDEX_WRITES and args[2].numel() != 1)
        if name in _OPERATORS or (is_index and _has_mask(args[1])):
            _note(self._waits, name)
        return func(*args, **(kwargs or {}))


def _has_mask(indices: Any) -> bool:
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)


def _note(waits: list[Wait], what: str) -> None:
    frame = sys._getframe(1)
    while frame.f_back is not None and (
        frame.f_code.co_filename.startswith(_TORCH) or frame.f_code.co_filename in _OWN_FILES
    ):
        frame = frame.f_back
    file, function = frame.f_code.co_filename, frame.f_code.co_name
    if any(file.endswith(end) and function == name for end, name in _READ_HOST_MEMORY):
        return
    short = "/".join(Path(file).parts[-3:])
    waits.append(Wait(what, f"{short}:{frame.f_lineno} {function}"))
