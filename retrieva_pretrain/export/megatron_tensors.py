"""Tensors of a Megatron checkpoint by their global names, whatever layout it was saved at.

megatron-core's distributed checkpoints are torch's (`torch.distributed.checkpoint`): every tensor is known by its
global shape, so one process reads any of them without a process group, and without building a model.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import load

from retrieva_pretrain.errors import CheckpointError
from retrieva_pretrain.export.names import Entry
from retrieva_pretrain.recipe.sections import ModelConfig


def stored_dtype(checkpoint: Path, entry: Entry) -> torch.dtype:
    """Return the type in which a checkpoint holds a tensor.

    Raises:
        CheckpointError: the checkpoint does not hold it.
    """
    try:
        found = FileSystemReader(str(checkpoint)).read_metadata().state_dict_metadata[entry.megatron]
    except Exception as error:  # torch raises whatever it stumbles over
        raise CheckpointError(
            f"{checkpoint}: {entry.megatron} cannot be found ({type(error).__name__}: {str(error)[:300]})"
        ) from None
    dtype: torch.dtype = found.properties.dtype  # type: ignore[union-attr]
    return dtype


def read_tensor(checkpoint: Path, entry: Entry, model: ModelConfig, dtype: torch.dtype) -> Tensor:
    """Read a tensor, rounded to `dtype` where it was saved in a wider one; of layers, [layers, ...] all of them.

    Raises:
        CheckpointError: the checkpoint does not hold it, or in another shape.
    """
    shape = (model.num_layers, *entry.shape) if entry.in_layers else entry.shape
    tensor = torch.empty(shape, dtype=dtype)
    try:
        load(
            {entry.megatron: tensor},
            storage_reader=FileSystemReader(str(checkpoint)),
            no_dist=True,
        )
    except Exception as error:  # torch raises whatever it stumbles over, also wrapped
        raise CheckpointError(
            f"{checkpoint}: {entry.megatron} {list(shape)} cannot be read ({type(error).__name__}: {str(error)[:300]})"
        ) from None
    return tensor
