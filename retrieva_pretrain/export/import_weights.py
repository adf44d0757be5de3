"""The tensors of a directory of transformers, written as a Megatron checkpoint by the one table of names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.dist_checkpointing.mapping import ShardedTensor
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch._C._distributed_c10d import HashStore

from retrieva_pretrain import platform
from retrieva_pretrain.errors import CheckpointError
from retrieva_pretrain.export.layout import join, shapes_there
from retrieva_pretrain.export.names import Entry, entries, names_there
from retrieva_pretrain.export.weights import INDEX, SINGLE
from retrieva_pretrain.recipe.sections import ModelConfig
from retrieva_pretrain.training.shards import plan_state

_DTYPES = (torch.bfloat16, torch.float32)
_HEAD, _EMBEDDING = "lm_head.decoder.weight", "bert.embeddings.word_embeddings.weight"


def import_weights(
    directory: Path, model: ModelConfig, vocab_size: int, checkpoint: Path
) -> dict[str, dict[str, Any]]:
    """Write a model's weights into the folder of a checkpoint; returns the size and checksum of every file.

    Raises:
        CheckpointError: a tensor is missing, of another shape or type, or not this model's.
    """
    table = entries(model, vocab_size)
    with _tensors(directory) as tensors:
        _refuse_other_names(directory, tensors, table, model)
        state = {entry.megatron: _described(entry, tensors, model) for entry in table}
        with _process_of_one():
            shards = plan_state({"model": state}, checkpoint)
            records, sums = shards.write()
            return {**sums, **shards.finish([records])}


def _described(entry: Entry, tensors: _Tensors, model: ModelConfig) -> ShardedTensor:
    """Join a tensor, of all layers where it stands in layers, and describe it to megatron-core."""
    layers: list[int | None] = list(range(model.num_layers)) if entry.in_layers else [None]
    parts = []
    for layer in layers:
        found = [
            tensors.read(name, shape)
            for name, shape in zip(names_there(entry, layer), shapes_there(entry, model), strict=True)
        ]
        parts.append(join(entry, found, model))
    return ShardedTensor.from_rank_offsets(
        entry.megatron, torch.stack(parts) if entry.in_layers else parts[0]
    )


def _refuse_other_names(directory: Path, tensors: _Tensors, table: list[Entry], model: ModelConfig) -> None:
    wanted = {
        name
        for entry in table
        for layer in (range(model.num_layers) if entry.in_layers else (None,))
        for name in names_there(entry, layer)
    }
    there = set(tensors.names)
    if model.share_embeddings_and_output_weights and _HEAD in there:
        if not torch.equal(tensors.get(_HEAD), tensors.get(_EMBEDDING)):
            raise CheckpointError(
                f"{directory}: {_HEAD} is another matrix than the embedding it should be tied to."
            )
        there.discard(_HEAD)
    for problem, names in (("is missing", wanted - there), ("is not known", there - wanted)):
        if names:
            raise CheckpointError(
                f"{directory}: the tensor {min(names)} {problem} ({len(names)} such); the names this package knows"
                " are in retrieva_pretrain/export/names.py."
            )


class _Tensors:
    """The tensors of one or several safetensors files, read one at a time."""

    def __init__(self, files: dict[str, Any], paths: dict[str, Path]) -> None:
        self._files, self._paths = files, paths
        self.names = list(files)

    def get(self, name: str) -> Tensor:
        """Read a tensor."""
        try:
            tensor: Tensor = self._files[name].get_tensor(name)
        except (SafetensorError, ValueError, KeyError) as error:
            raise CheckpointError(f"{self._paths[name]}: {name} cannot be read ({error}).") from None
        return tensor

    def read(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Read a tensor, and refuse another shape or a type that weights do not have."""
        tensor = self.get(name)
        if tuple(tensor.shape) != shape or tensor.dtype not in _DTYPES:
            raise CheckpointError(
                f"{self._paths[name]}: {name} is {list(tensor.shape)} {tensor.dtype}; config.json makes it"
                f" {list(shape)}, in bfloat16 or float32."
            )
        return tensor


@contextmanager
def _tensors(directory: Path) -> Iterator[_Tensors]:
    """Open the safetensors files of a directory.

    Raises:
        CheckpointError: there are none, the index cannot be read, or a file is damaged.
    """
    index = directory / INDEX
    names = [SINGLE]
    if index.exists():
        try:
            names = sorted(set(json.loads(index.read_bytes().decode("utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise CheckpointError(f"{index}: cannot be read ({error!r}).") from None
    files: dict[str, Any] = {}
    paths: dict[str, Path] = {}
    with ExitStack() as stack:
        for name in names:
            path = directory / Path(name).name
            try:
                opened = stack.enter_context(safe_open(path, framework="pt"))
            except (OSError, SafetensorError) as error:
                raise CheckpointError(f"{path}: missing or no whole safetensors file ({error}).") from None
            files |= dict.fromkeys(opened.keys(), opened)
            paths |= dict.fromkeys(opened.keys(), path)
        yield _Tensors(files, paths)


@contextmanager
def _process_of_one() -> Iterator[None]:
    """Join a process group of this process alone, which megatron-core's checkpoints need."""
    platform.current().prepare(0)
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()
