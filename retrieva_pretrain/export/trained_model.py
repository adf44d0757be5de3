"""The trained side of the parity check: megatron-core's own model with a checkpoint's weights, rounded to bf16."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from retrieva_pretrain.export.parity import Batch
from retrieva_pretrain.model.build import build_model
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.recipe.sections import ModelConfig
from retrieva_pretrain.training import distributed
from retrieva_pretrain.training.shards import load_tensors


def write_trained_logits(
    checkpoint: Path, model: ModelConfig, padded_vocab_size: int, made: list[Batch], folder: Path
) -> None:
    """Run the trained model in fp32 and write each batch's logits [b, m, padded vocabulary] as `folder/N.npy`."""
    recipe = _alone(model)
    distributed.initialize(recipe)
    try:
        built = build_model(recipe, padded_vocab_size)
        _convert(built, torch.bfloat16)
        # Read the way a run reads it, not by the table of names that is being checked. megatron-core reads into memory
        # of its own first: in bf16 both together take what the model takes in fp32.
        load_tensors(checkpoint, built)
        _convert(built, torch.float32)
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


def _convert(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Give parameters another type, one after the other, so that the model is never there twice."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


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
