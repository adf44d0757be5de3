"""A Megatron checkpoint's tensors as safetensors; in memory are one file and one tensor of all layers."""

from __future__ import annotations

import json
import math
from itertools import groupby
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from retrieva_pretrain.export.layout import split
from retrieva_pretrain.export.megatron_tensors import read_tensor, stored_dtype
from retrieva_pretrain.export.names import Entry, entries, names_there, places
from retrieva_pretrain.recipe.schema import Precision
from retrieva_pretrain.recipe.sections import ModelConfig

# Hugging Face's own limit of a file.
SHARD_BYTES = 5_000_000_000
DTYPES: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp32": torch.float32}
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


def stored_precision(checkpoint: Path, model: ModelConfig, padded_vocab_size: int) -> Precision:
    """Return the type in which a checkpoint holds its weights: fp32 if any of them is wider than bf16.

    Raises:
        CheckpointError: the checkpoint lacks a tensor.
    """
    stored = {stored_dtype(checkpoint, entry) for entry in entries(model, padded_vocab_size)}
    return "bf16" if stored == {torch.bfloat16} else "fp32"


def write_weights(
    checkpoint: Path,
    model: ModelConfig,
    padded_vocab_size: int,
    precision: Precision,
    folder: Path,
    shard_bytes: int = SHARD_BYTES,
) -> int:
    """Write the weights of a checkpoint into a folder, and an index where they take several files.

    Returns the number of parameters.

    Raises:
        CheckpointError: the checkpoint lacks a tensor or holds one of another shape.
    """
    dtype = DTYPES[precision]
    files = _plan(model, padded_vocab_size, dtype, shard_bytes)
    names = (
        [SINGLE]
        if len(files) == 1
        else [f"model-{n:05d}-of-{len(files):05d}.safetensors" for n in range(1, len(files) + 1)]
    )
    weight_map: dict[str, str] = {}
    parameters = 0
    for name, wanted in zip(names, files, strict=True):
        tensors: dict[str, Tensor] = {}
        for entry, found in groupby(wanted, key=lambda place: place[0]):
            whole = read_tensor(checkpoint, entry, model, dtype)
            for _, layer in found:
                part = whole if layer is None else whole[layer]
                tensors |= zip(names_there(entry, layer), split(entry, part, model), strict=True)
        save_file(tensors, folder / name, {"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
        parameters += sum(tensor.numel() for tensor in tensors.values())
    if len(files) > 1:
        index = {"metadata": {"total_size": parameters * dtype.itemsize}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return parameters


def _plan(
    model: ModelConfig, padded_vocab_size: int, dtype: torch.dtype, shard_bytes: int
) -> list[list[tuple[Entry, int | None]]]:
    """Divide the tensors over files of at most `shard_bytes`; a larger tensor has a file of its own."""
    files: list[list[tuple[Entry, int | None]]] = []
    room = 0
    for entry, layer in places(model, padded_vocab_size):
        size = math.prod(entry.shape) * dtype.itemsize
        if size > room:
            files.append([])
            room = shard_bytes
        files[-1].append((entry, layer))
        room -= size
    return files
