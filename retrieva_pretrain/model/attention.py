"""Attention by torch's scaled_dot_product_attention, for megatron-core's local layers.

No scores in memory: FlashAttention-2 on CUDA, with dropout and without repeated keys and values (multi-query
attention). Written for megatron-core 0.16.1 to 0.19.2, whose `DotProductAttention` it replaces in the layer spec.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
import torch.nn.functional as F  # noqa: N812
from megatron.core import tensor_parallel
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from retrieva_pretrain import platform


class SdpaCoreAttention(MegatronModule):  # type: ignore[misc]
    """The attention between the projections of one layer."""

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: AttnMaskType,
        attention_type: str,
        attention_dropout: float | None = None,
        softmax_scale: float | None = None,
        cp_comm_type: str | None = None,
        pg_collection: Any = None,
    ) -> None:
        """Take what megatron-core gives the core attention of a layer spec.

        Raises:
            ValueError: the configuration asks for what this attention does not have.
        """
        super().__init__(config=config)
        if config.context_parallel_size != 1 or config.apply_query_key_layer_scaling:
            raise ValueError("sdpa attention has no context parallelism and no query-key layer scaling")
        self.dropout = config.attention_dropout if attention_dropout is None else attention_dropout
        self.softmax_scale = 1 / math.sqrt(config.kv_channels) if softmax_scale is None else softmax_scale

    # torch.compile would break here at the random stream: one clean cut instead of several.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        attn_mask_type: AttnMaskType | None = None,
        attention_bias: Tensor | None = None,
        packed_seq_params: PackedSeqParams | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            query: [s, b, heads, d]
            key: [s, b, groups, d]; `groups` divides `heads`.
            value: [s, b, groups, d]
            attention_mask: bool, broadcast to [b, heads, s, s], True where attention is NOT allowed; None where
                every position attends to every other.
            packed_seq_params: `cu_seqlens_q` holds the bounds of documents when the samples are laid end to end;
                attention stays inside them. None where it crosses them.

        Returns:
            [s, b, heads x d]
        """
        if attention_bias is not None:
            raise ValueError("sdpa attention takes no attention bias")
        dropout = self.dropout if self.training else 0.0
        with self._random_stream(dropout):
            if packed_seq_params is not None:
                return self._inside_documents(query, key, value, packed_seq_params, dropout)
            q, k, v = (t.permute(1, 2, 0, 3) for t in (query, key, value))  # [b, heads, s, d], views
            allowed = None if attention_mask is None else ~attention_mask
            if allowed is not None or not platform.current().attends_grouped_heads(query.dtype):
                # Flash kernels take no mask, and on CUDA no fp32; those that do want keys and values for every head.
                k, v = (t.repeat_interleave(q.size(1) // t.size(1), dim=1) for t in (k, v))
            context = F.scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=allowed,
                dropout_p=dropout,
                scale=self.softmax_scale,
                enable_gqa=k.size(1) != q.size(1),
            )
        return context.permute(2, 0, 1, 3).reshape(*query.shape[:2], -1)

    def _random_stream(self, dropout: float) -> AbstractContextManager[Any]:
        """Draw from this tensor-parallel rank's own stream, as `DotProductAttention` does: its heads are its own.

        Under sequence parallelism the layer has switched to it already.
        """
        if dropout == 0.0 or self.config.sequence_parallel:
            return nullcontext()
        return cast(AbstractContextManager[Any], tensor_parallel.get_cuda_rng_tracker().fork())

    def _inside_documents(
        self, query: Tensor, key: Tensor, value: Tensor, documents: PackedSeqParams, dropout: float
    ) -> Tensor:
        s, b = query.shape[:2]
        # [s, b, n, d] -> [b x s, n, d]: sample after sample, as the bounds count.
        q, k, v = (t.transpose(0, 1).reshape(b * s, t.size(2), t.size(3)) for t in (query, key, value))
        context = platform.current().attend_inside_documents(
            q, k, v, documents.cu_seqlens_q, s, dropout, self.softmax_scale
        )
        return context.reshape(b, s, -1).transpose(0, 1).contiguous()
