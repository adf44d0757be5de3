"""One micro-batch on its way to the device: the scored positions in slots of a fixed number.

`host_batch` does everything that the host has to do, in whatever thread calls it; `to_device` only starts copies.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from retrieva_pretrain import platform
from retrieva_pretrain.data.batches import Samples
from retrieva_pretrain.data.segments import document_bounds


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass reads. m is the number of slots: the most positions a sample can have scored."""

    first_sample: int
    """Number of the first sample in the run; the seed of the pass."""

    input_ids: Tensor
    """[b, s], int64."""

    scored_positions: Tensor
    """[b, m], int64, ascending; unused slots point anywhere."""

    labels: Tensor
    """[b, m], int64."""

    loss_weights: Tensor
    """[b, m], float32: 1, or 0 in an unused slot."""

    position_ids: Tensor | None = None
    """[b, s], int64, where positions begin anew in every document; None where they are 0..s-1."""

    segment_ids: Tensor | None = None
    """[b, s], int64, the number of the document within the sample, where attention stays inside documents."""

    cu_seqlens: Tensor | None = None
    """[n + 1], int32: where documents begin when the samples are laid end to end, and the end b x s (repeated, see
    `data.segments.document_bounds`). None where attention crosses documents."""


def host_batch(samples: Samples, first_sample: int, slots: int) -> MicroBatch:
    """Cut the scored positions out of samples [b, s]: a micro-batch in host memory, pinned where there is a device.

    Args:
        samples: arrays [b, s] as `data.batches` makes them.
        first_sample: number of the first of them in the run.
        slots: m, the most positions that a sample can have scored.
    """
    machine = platform.current()
    order = np.argsort(samples["loss_mask"] == 0, axis=1, kind="stable")[:, :slots]

    def tensor(array: np.ndarray) -> Tensor:
        return machine.pin(torch.from_numpy(np.ascontiguousarray(array)))

    def optional(name: str) -> Tensor | None:
        return tensor(samples[name]) if name in samples else None

    segments = samples.get("segment_ids")
    return MicroBatch(
        first_sample=first_sample,
        input_ids=tensor(samples["input_ids"]),
        scored_positions=tensor(order),
        labels=tensor(np.take_along_axis(samples["labels"], order, axis=1)),
        loss_weights=tensor(np.take_along_axis(samples["loss_mask"], order, axis=1)),
        position_ids=optional("position_ids"),
        segment_ids=optional("segment_ids"),
        cu_seqlens=None
        if segments is None
        else tensor(document_bounds(segments.astype(np.int64, copy=False))),
    )


def to_device(batch: MicroBatch) -> MicroBatch:
    """Copy a micro-batch to the device. Nothing is waited for: what reads the copies is queued behind them."""
    device = platform.current().device()
    tensors = {field.name: getattr(batch, field.name) for field in fields(batch)}
    moved: dict[str, Any] = {
        name: tensor.to(device, non_blocking=True)
        for name, tensor in tensors.items()
        if isinstance(tensor, Tensor)
    }
    return replace(batch, **moved)
