"""The number of parameters of a recipe's model, by formula."""

from __future__ import annotations

from dataclasses import dataclass

from retrieva_pretrain.recipe.schema import ModelConfig, Recipe


@dataclass(frozen=True)
class ParameterCount:
    """Parameters by part of the model."""

    word_embedding: int
    position_embedding: int
    layer: int
    """One transformer layer."""

    num_layers: int
    final_norm: int
    head: int
    """Masked-LM head with the vocabulary's bias; with untied embeddings its matrix too."""

    @property
    def total(self) -> int:
        """All parameters."""
        embeddings = self.word_embedding + self.position_embedding
        return embeddings + self.num_layers * self.layer + self.final_norm + self.head


def count_parameters(model: ModelConfig, padded_vocab_size: int) -> ParameterCount:
    """Count what `model.build.build_model` builds, padded rows included.

    A layer: two LayerNorms, the joint query-key-value projection h -> h + 2 x groups x head size, the output
    projection, and SwiGLU's h -> 2 x ffn and ffn -> h; every linear map has a bias.
    """
    h = model.hidden_size
    norm = 2 * h
    head = _head_transform(model) + padded_vocab_size
    if not model.share_embeddings_and_output_weights:
        head += padded_vocab_size * h
    return ParameterCount(
        word_embedding=padded_vocab_size * h,
        position_embedding=model.max_position_embeddings * h,
        layer=sum(_layer(model)),
        num_layers=model.num_layers,
        final_norm=norm,
        head=head,
    )


def _layer(model: ModelConfig) -> tuple[int, int]:
    """Return what tensor parallelism divides of a layer, and what stands on every GPU: norms and two biases."""
    h, ffn = model.hidden_size, model.ffn_hidden_size
    qkv = h + 2 * model.num_query_groups * model.kv_channels
    divided = (h + 1) * qkv + h * h + (h + 1) * 2 * ffn + ffn * h
    return divided, 2 * h + 4 * h


def _head_transform(model: ModelConfig) -> int:
    """Return the parameters between the encoder and the vocabulary: a square map and a norm."""
    h = model.hidden_size
    return (h + 1) * h + 2 * h


def rank_parameters(recipe: Recipe, padded_vocab_size: int, pipeline_rank: int) -> int:
    """Count the parameters on one GPU of a pipeline stage.

    Tensor parallelism divides the projections, their columns' biases and the vocabulary; norms, the biases that are
    added once behind a row-divided projection, positions and the head's transform stand on every GPU. With tied
    embeddings the last pipeline stage holds the matrix a second time.
    """
    model, sizes = recipe.model, recipe.parallelism
    tensor, pipeline = sizes.tensor_model_parallel_size, sizes.pipeline_model_parallel_size
    h = model.hidden_size
    divided, repeated = _layer(model)
    count = model.num_layers // pipeline * (divided // tensor + repeated)
    matrix = padded_vocab_size // tensor * h
    is_first, is_last = pipeline_rank == 0, pipeline_rank == pipeline - 1
    if is_first:
        count += matrix + model.max_position_embeddings * h
    if is_last:
        count += 2 * h + _head_transform(model) + padded_vocab_size // tensor
        if not model.share_embeddings_and_output_weights or pipeline > 1:
            count += matrix
    return count
