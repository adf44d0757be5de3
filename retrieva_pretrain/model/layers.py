"""Which of megatron-core's layers a model is made of."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from megatron.core.models.bert.bert_layer_specs import bert_layer_local_spec
from megatron.core.transformer.enums import AttnMaskType

from retrieva_pretrain.recipe.schema import Recipe


def layer_spec(recipe: Recipe) -> Any:
    """Return the specification of one layer.

    Transformer Engine's attention is told that there is no mask, or, where attention stays inside documents, that
    they come packed (`PackedSeqParams`): a mask of [b, 1, s, s] would rule out its flash and fused kernels.
    """
    if recipe.kernels.transformer_impl == "local":
        return bert_layer_local_spec
    from megatron.core.models.bert.bert_layer_specs import get_bert_layer_with_transformer_engine_spec

    spec = deepcopy(get_bert_layer_with_transformer_engine_spec())
    packed = recipe.data.reset_attention_mask
    spec.submodules.self_attention.params["attn_mask_type"] = (
        AttnMaskType.padding if packed else AttnMaskType.no_mask
    )
    return spec
