"""One micro-batch on its way to the device: the scored positions in slots of a fixed number."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from retrieva_pretrain import platform
from retrieva_pretrain.data.batches import Samples


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


def to_device(samples: Samples, first_sample: int, slots: int) -> MicroBatch:
    """Cut the scored positions out of samples [b, s] and move everything to the device."""
    order = np.argsort(samples["loss_mask"] == 0, axis=1, kind="stable")[:, :slots]
    device = platform.current().device()

    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)

    def optional(name: str) -> Tensor | None:
        return tensor(samples[name]) if name in samples else None

    return MicroBatch(
        first_sample=first_sample,
        input_ids=tensor(samples["input_ids"]),
        scored_positions=tensor(order),
        labels=tensor(np.take_along_axis(samples["labels"], order, axis=1)),
        loss_weights=tensor(np.take_along_axis(samples["loss_mask"], order, axis=1)),
        position_ids=optional("position_ids"),
        segment_ids=optional("segment_ids"),
    )
