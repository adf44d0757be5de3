"""Recomputation of activations, which each stage of a curriculum may choose for itself.

megatron-core reads `recompute_granularity` in part when layers are built (selective) and in part in every forward
(full; 0.16.1 and 0.19.2). Both are set here, so that the same model can be switched between two stages.
"""

from __future__ import annotations

from megatron.core.utils import unwrap_model

from retrieva_pretrain.model.attention import SdpaCoreAttention
from retrieva_pretrain.recipe.schema import Stage


def set_recompute(model: object, stage: Stage) -> None:
    """Let a model, wrapped or not, keep or compute again what a stage asks for. Numbers stay the same to the bit.

    `full` computes `recompute_num_layers` layers of this process's part again, one at a time; `selective` the
    attention between the projections, which holds the s x s scores; attention that holds none is left alone.
    """
    encoder = unwrap_model(model).encoder
    config = encoder.config
    is_full = stage.recompute_granularity == "full"
    config.recompute_granularity = stage.recompute_granularity
    config.recompute_method = "block" if is_full else None
    config.recompute_num_layers = (
        min(stage.recompute_num_layers or len(encoder.layers), len(encoder.layers)) if is_full else None
    )
    for layer in encoder.layers:
        attention = layer.self_attention
        attention.checkpoint_core_attention = stage.recompute_granularity == "selective" and not isinstance(
            attention.core_attention, SdpaCoreAttention
        )
