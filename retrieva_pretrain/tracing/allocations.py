"""Counts what torch's caching allocator would hand out, operator by operator."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from retrieva_pretrain.tracing.trace import Phase

_BLOCK = 512
"""torch's CUDA allocator rounds every request up to a multiple of this (`kMinBlockSize`, CUDACachingAllocator)."""


class Allocations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the storages of fake tensors from the operator that makes them until nothing holds them."""

    def __init__(self) -> None:
        """Start with nothing allocated."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        """Bytes that are allocated now."""

        self.peak = 0
        """The most since `begin`."""

        self.peak_operator = ""
        self.peak_phase: Phase = "forward"
        self.is_updating = False
        """Set by whoever runs the optimizer: what is neither an update nor a backward pass counts as forward."""

        self._sizes: dict[int, int] = {}

    def begin(self) -> None:
        """Count the peak from now on."""
        self.peak = self.now

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator and count the storages it returns that are new."""
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1.0  # a number that is read from the device: there is none
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, FakeTensor):
                self._hold(leaf.untyped_storage(), func)
        return result

    def _hold(self, storage: torch.UntypedStorage, func: Any) -> None:
        key = storage._cdata
        if key in self._sizes:
            return
        size = -(-storage.nbytes() // _BLOCK) * _BLOCK
        self._sizes[key] = size
        weakref.finalize(storage, self._drop, key)
        self.now += size
        if self.now > self.peak:
            self.peak, self.peak_operator, self.peak_phase = self.now, str(func), self._phase()

    def _drop(self, key: int) -> None:
        self.now -= self._sizes.pop(key)

    def _phase(self) -> Phase:
        if self.is_updating:
            return "update"
        in_backward = torch._C._current_graph_task_id() != -1
        return "backward" if in_backward else "forward"
