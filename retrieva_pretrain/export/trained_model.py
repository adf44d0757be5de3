"""The trained side of the parity check: megatron-core's own model with a checkpoint's weights, in the exported type."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import torch

from retrieva_pretrain.export.parity import Batch
from retrieva_pretrain.export.weights import DTYPES
from retrieva_pretrain.model.build import build_model
from retrieva_pretrain.recipe.schema import Precision, Recipe
from retrieva_pretrain.recipe.sections import ModelConfig
from retrieva_pretrain.training import distributed
from retrieva_pretrain.training.shards import load_tensors


def write_trained_logits(
    checkpoint: Path,
    model: ModelConfig,
    padded_vocab_size: int,
    precision: Precision,
    made: list[Batch],
    folder: Path,
) -> None:
    """Run the trained model in fp32 and write each batch's logits [b, m, padded vocabulary] as `folder/N.npy`.

    `precision`: the type that the weights were exported in.
    """
    recipe = _alone(model)
    distributed.initialize(recipe)
    try:
        built = _read(recipe, padded_vocab_size, DTYPES[precision], checkpoint)
        built.eval()
        with torch.inference_mode():
            for number, batch in enumerate(made):
                logits = built(
                    input_ids=torch.from_numpy(batch.input_ids),
                    attention_mask=_not_allowed(torch.from_numpy(batch.attention_mask)),
                    scored_positions=torch.from_numpy(batch.positions),
                )
                np.save(folder / f"{number}.npy", logits.numpy())
    finally:
        distributed.shut_down()


def _read(recipe: Recipe, padded_vocab_size: int, dtype: torch.dtype, checkpoint: Path) -> torch.nn.Module:
    """Return the trained model in fp32, with its weights rounded to `dtype`.

    megatron-core reads into memory of its own first, so the model is made without memory and read in `dtype`: twice the
    size of the weights in that type, which for bf16 is the model in fp32.
    """
    with torch.device("meta"):
        built: torch.nn.Module = build_model(recipe, padded_vocab_size, perform_initialization=False)
    built.to(dtype)
    if list(built.buffers()):
        raise RuntimeError(
            "the model has buffers, which building it without memory leaves without their values"
        )
    built.to_empty(device="cpu")
    # Read the way a run reads it, not by the table of names that is being checked.
    load_tensors(checkpoint, built)
    _give_memory_back()
    for parameter in built.parameters():
        parameter.data = parameter.data.float()
    return built


def _give_memory_back() -> None:
    """Have the C library return what was freed; glibc keeps it for itself otherwise."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _not_allowed(attention_mask: torch.Tensor) -> torch.Tensor:
    """[b, s] -> bool [b, 1, s, s], True where megatron-core's local attention must not look."""
    length = attention_mask.shape[1]
    return (attention_mask == 0)[:, None, None, :].expand(-1, 1, length, length)


def _alone(model: ModelConfig) -> Recipe:
    """Return a recipe of this shape for one process on megatron-core's own layers; nothing of it is trained."""
    return Recipe.model_validate(
        {
            "name": "export",
            "model": model.model_dump(),
            "tokenizer": {"model": "none"},
            "data": {"blend": [{"path": "none"}]},
            "optimizer": {"lr": 1.0},
            "precision": "fp32",
            "global_batch_size": 1,
            "curriculum": [
                {
                    "seq_length": max(8, model.max_position_embeddings),
                    "train_iters": 1,
                    "max_micro_batch_size": 1,
                }
            ],
        }
    )
