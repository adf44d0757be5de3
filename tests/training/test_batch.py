"""What the host makes of samples, and what comes to the device."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from retrieva_pretrain.training.batch import host_batch, to_device

pytestmark = pytest.mark.engine
LOSS_MASK = np.array([[0, 1, 0, 0, 1, 0], [0, 0, 0, 1, 0, 0]], dtype=np.float32)


def samples() -> dict[str, np.ndarray]:
    ids = np.arange(12).reshape(2, 6)
    return {"input_ids": ids, "labels": ids + 100, "loss_mask": LOSS_MASK}


def test_scored_positions_are_cut_out_into_slots() -> None:
    batch = to_device(host_batch(samples(), 40, 3))
    assert batch.first_sample == 40
    assert batch.scored_positions.tolist() == [[1, 4, 0], [3, 0, 1]]
    assert batch.labels.tolist() == [[101, 104, 100], [109, 106, 107]]
    assert batch.loss_weights.tolist() == [[1, 1, 0], [1, 0, 0]]
    assert batch.segment_ids is None and batch.position_ids is None and batch.cu_seqlens is None


def test_documents_come_with_their_bounds() -> None:
    segments = np.array([[0, 0, 0, 1, 1, 1], [0, 1, 1, 1, 2, 2]])
    batch = host_batch({**samples(), "segment_ids": segments}, 0, 3)
    assert batch.cu_seqlens is not None and batch.cu_seqlens.dtype == torch.int32
    assert batch.cu_seqlens.tolist() == [0, 3, 6, 7, 10, *[12] * 59]
    moved = to_device(batch)
    assert moved.cu_seqlens is not None and torch.equal(moved.cu_seqlens.cpu(), batch.cu_seqlens)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_host_batches_are_pinned() -> None:
    batch = host_batch(samples(), 0, 3)
    assert batch.input_ids.is_pinned() and batch.loss_weights.is_pinned()
    assert to_device(batch).input_ids.is_cuda
