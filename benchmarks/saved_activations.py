"""How many bytes autograd keeps between a forward pass and its backward; the tests of the memory model ask it too."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterable

import torch


class _Kept:
    """A tensor that autograd saved; it lives as long as the graph that needs it."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


def saved_bytes(forward: Callable[[], object], parameters: Iterable[torch.Tensor]) -> int:
    """Return the bytes that a forward pass keeps for its backward, every storage once, those of `parameters` not.

    Counted at the end, by what is alive then: under full recomputation megatron-core runs dropout with gradients
    switched on all the same, and what that saves is let go with the layer.
    """
    alive: weakref.WeakSet[_Kept] = weakref.WeakSet()

    def keep(tensor: torch.Tensor) -> _Kept:
        kept = _Kept(tensor)
        alive.add(kept)
        return kept

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept.tensor):
        result = forward()  # holds the graph while it is counted
    gc.collect()
    sizes = {s.data_ptr(): s.nbytes() for s in (kept.tensor.untyped_storage() for kept in alive)}
    del result
    own = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    return sum(size for address, size in sizes.items() if address not in own)
