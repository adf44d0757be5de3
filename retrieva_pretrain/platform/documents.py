"""Attention that stays inside documents, which are laid end to end with their bounds."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


def attend_by_flash(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens: Tensor,
    seq_length: int,
    dropout: float,
    softmax_scale: float,
) -> Tensor:
    """Run torch's FlashAttention-2 kernel over documents. CUDA only; what the kernel does not take runs by a mask.

    `torch.nn.attention.varlen` offers the same kernel with dropout fixed at 0 (torch 2.11), hence the operator itself;
    it has a backward formula. No document is longer than a sample, so `seq_length` bounds them and nothing waits
    for the device to tell the longest.

    Args:
        query: [t, heads, d], t tokens of all samples.
        key: [t, groups, d]
        value: [t, groups, d]
        cu_seqlens: int32 [documents + 1], the first 0, the last t; equal neighbours are empty documents.
        seq_length: the most tokens a document can have.
        dropout: share of the attention probabilities that is dropped.
        softmax_scale: factor of the scores.

    Returns:
        [t, heads, d]
    """
    if query.dtype not in (torch.bfloat16, torch.float16) or query.size(-1) % 8 or query.size(-1) > 256:
        return attend_by_mask(query, key, value, cu_seqlens, seq_length, dropout, softmax_scale)
    output: Tensor = torch.ops.aten._flash_attention_forward(
        query,
        key,
        value,
        cu_seqlens,
        cu_seqlens,
        seq_length,
        seq_length,
        dropout,
        False,  # is_causal
        False,  # return_debug_mask
        scale=softmax_scale,
    )[0]
    return output


def attend_by_mask(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens: Tensor,
    seq_length: int,
    dropout: float,
    softmax_scale: float,
) -> Tensor:
    """Compute the same with a mask, on any device; samples must have `seq_length` tokens each."""
    tokens, heads = query.shape[:2]
    document = torch.searchsorted(cu_seqlens, torch.arange(tokens, device=query.device), right=True)
    document = document.view(-1, seq_length)  # [b, s]
    allowed = (document.unsqueeze(1) == document.unsqueeze(2)).unsqueeze(1)  # [b, 1, s, s]
    q, k, v = (t.view(-1, seq_length, t.size(1), t.size(2)).transpose(1, 2) for t in (query, key, value))
    k, v = (t.repeat_interleave(heads // t.size(1), dim=1) for t in (k, v))
    context = F.scaled_dot_product_attention(
        q, k, v, attn_mask=allowed, dropout_p=dropout, scale=softmax_scale
    )
    return context.transpose(1, 2).reshape(tokens, heads, -1)
