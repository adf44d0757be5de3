"""Which of megatron-core's layers a model is made of."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Literal

from megatron.core.models.bert.bert_layer_specs import bert_layer_local_spec
from megatron.core.transformer.enums import AttnMaskType

from retrieva_pretrain.model.attention import SdpaCoreAttention
from retrieva_pretrain.recipe.kernels import ResolvedKernels

DocumentAttention = Literal["mask", "cu_seqlens", "thd"]
"""How layers learn where documents end: a mask [b, 1, s, s]; bounds beside hidden states [s, b, h]; or samples laid end
to end as [b x s, 1, h] with their bounds, as Transformer Engine's attention wants them."""


def document_attention(kernels: ResolvedKernels) -> DocumentAttention:
    """Return how layers with these kernels keep attention inside documents."""
    forms: dict[str, DocumentAttention] = {
        "unfused": "mask",
        "sdpa": "cu_seqlens",
        "transformer_engine": "thd",
    }
    return forms[kernels.attention]


def layer_spec(kernels: ResolvedKernels, *, inside_documents: bool) -> Any:
    """Return the specification of one layer; `inside_documents`: attention does not cross documents.

    Transformer Engine's attention is told that there is no mask, or that documents come packed (`PackedSeqParams`): a
    mask of [b, 1, s, s] would rule out its flash and fused kernels.
    """
    if kernels.attention == "unfused":
        return bert_layer_local_spec
    if kernels.attention == "sdpa":
        spec = deepcopy(bert_layer_local_spec)
        spec.submodules.self_attention.submodules.core_attention = SdpaCoreAttention
        return spec
    from megatron.core.models.bert.bert_layer_specs import get_bert_layer_with_transformer_engine_spec

    spec = deepcopy(get_bert_layer_with_transformer_engine_spec())
    spec.submodules.self_attention.params["attn_mask_type"] = (
        AttnMaskType.padding if inside_documents else AttnMaskType.no_mask
    )
    return spec
