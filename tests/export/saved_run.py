"""A program: makes the folder of a run with one checkpoint, whose weights are drawn so that no two tensors agree.

saved_run.py RECIPE [key=value ...], plainly or under torchrun. Every bias is non-zero and differs from every other: a
conversion that mixes two of them up is seen. Nothing is trained.
"""

from __future__ import annotations

import sys
import zlib
from pathlib import Path

import torch
from megatron.core import parallel_state

from data_prep.tokenizer import Tokenizer
from retrieva_pretrain.model.build import build_model, wrap_model
from retrieva_pretrain.model.optimizer import build_optimizer
from retrieva_pretrain.platform.quiet import quiet_upstream
from retrieva_pretrain.recipe.identity import identity
from retrieva_pretrain.recipe.layout import padded_vocab_size
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.training import distributed
from retrieva_pretrain.training.checkpoint import Checkpointer
from retrieva_pretrain.training.run_folder import RunFolder


def main(file: Path, overrides: list[str]) -> None:
    quiet_upstream()
    recipe = load_yaml(Recipe, file, overrides)
    tokenizer = Tokenizer(recipe.tokenizer.model)
    ranks = distributed.initialize(recipe)
    padded = padded_vocab_size(tokenizer.vocab_size, recipe.tokenizer.make_vocab_size_divisible_by)
    model = build_model(recipe, padded)
    for name, parameter in model.named_parameters():
        # What tensor-parallel processes share must be alike on them, what they divide must not.
        divided = getattr(parameter, "tensor_model_parallel", False)
        part = parallel_state.get_tensor_model_parallel_rank() if divided else 0
        stage = 0 if "word_embeddings" in name else parallel_state.get_pipeline_model_parallel_rank()
        generator = torch.Generator().manual_seed(zlib.crc32(f"{name} {part} {stage}".encode()))
        noise = torch.empty(parameter.shape).normal_(0.0, 0.2, generator=generator)
        parameter.data.add_(noise.to(parameter.dtype))
    wrapped = wrap_model(recipe, model)
    optimizer = build_optimizer(recipe, wrapped)
    folder = RunFolder.of(recipe)
    known = identity(recipe, {c.path: c.path for c in recipe.data.blend}, tokenizer.sha256)
    if ranks.is_first:
        folder.write_recipe(recipe, known)
    checkpointer = Checkpointer(folder, known, recipe.checkpoint, ranks)
    checkpointer.save(3, wrapped, optimizer, {})
    checkpointer.finish()
    distributed.shut_down()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
