"""What a save needs on the device while no step runs, by formula."""

from __future__ import annotations

from retrieva_pretrain.recipe.schema import ModelConfig


def gather_bytes(
    parameters: int, largest_parameter: int, data_parallel_size: int, is_distributed: bool
) -> int:
    """Return the bytes on one GPU, at most, of the optimizer's states that a save puts together from several ranks.

    A parameter that lies across the border between two ranks' shares is put together on one of them
    (`training/optimizer_shares.py`): fp32 weight and both moments, 12 bytes per element. A rank saves its even share and
    less than two of the largest parameters more, which tests hold. Without a distributed optimizer, or on one rank,
    nothing is put together.

    Args:
        parameters: on one GPU.
        largest_parameter: elements of the largest tensor among them.
        data_parallel_size: processes that share the optimizer's states.
        is_distributed: `parallelism.use_distributed_optimizer`.
    """
    if not is_distributed or data_parallel_size == 1:
        return 0
    return 12 * (-(-parameters // data_parallel_size) + 2 * largest_parameter)


def largest_parameter(model: ModelConfig, padded_vocab_size: int, tensor_parallel_size: int) -> int:
    """Return the elements of the largest tensor on a GPU: an embedding, or a matrix of a layer.

    Tensor parallelism divides all but the position embedding.
    """
    qkv = model.hidden_size + 2 * model.num_query_groups * model.kv_channels
    rows = max(padded_vocab_size, 2 * model.ffn_hidden_size, qkv) / tensor_parallel_size
    return int(max(rows, model.max_position_embeddings) * model.hidden_size)
