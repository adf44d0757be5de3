"""LayerNorm where neither Transformer Engine nor Apex is installed, under sequence parallelism too.

megatron-core's fallback is torch's LayerNorm, refused under sequence parallelism because nothing marks its
parameters (`WrappedTorchNorm`, megatron-core 0.16.1 and 0.19.2): each tensor-parallel process sees a part of the
sequence, and the gradients of parameters with the mark are added up.
"""

from __future__ import annotations

from typing import Any

import torch


def use_norms_that_know_sequence_parallelism() -> None:
    """Let megatron-core's fallback mark what it makes. Calling it again does nothing new."""
    from megatron.core.transformer.torch_norm import WrappedTorchNorm

    WrappedTorchNorm.__new__ = staticmethod(_layer_norm)


def _layer_norm(
    _cls: type, config: Any, hidden_size: int, eps: float = 1e-5, **_unused: Any
) -> torch.nn.Module:
    if config.normalization != "LayerNorm":
        raise ValueError(f"only LayerNorm is known here, not {config.normalization}")
    norm = torch.nn.LayerNorm(hidden_size, eps=eps)
    for parameter in norm.parameters():
        parameter.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
    return norm
