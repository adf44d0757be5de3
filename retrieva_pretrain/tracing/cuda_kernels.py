"""What CUDA's kernels allocate and keep for backward, for fake tensors on the CPU.

The CPU's operators keep other tensors than CUDA's: its dropout keeps a mask in the input's type, its SDPA has other
outputs, and torch.compile does not run on fake tensors. Each stand-in allocates what the kernel named in its docstring
allocates and computes nothing.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


def use_cuda_kernels() -> None:
    """Put the stand-ins in the places of torch's and megatron-core's functions, for the life of this process."""
    from megatron.core.fusions import fused_bias_dropout, fused_bias_swiglu

    functional: Any = F
    functional.dropout = dropout
    functional.scaled_dot_product_attention = attention
    upstream: Any = fused_bias_dropout
    upstream.bias_dropout_add_fused_train = _bias_dropout_add
    swiglu: Any = fused_bias_swiglu
    swiglu.bias_swiglu = _bias_swiglu
    swiglu.bias_swiglu_back = _bias_swiglu_back


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Drop as CUDA's kernel does: the mask that is kept has one byte for each element."""
    if not training or p == 0:
        return input
    dropped: Tensor = torch.ops.aten.native_dropout(input, p, True)[0]
    return dropped


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attend as the flash kernel does: query [b, heads, s, d], key and value [b, groups, s, d]."""
    if attn_mask is not None:
        raise ValueError("the flash kernel takes no mask")
    rows = query.size(0) * -(-query.size(2) // _ROWS) * _ROWS
    laid_out = (t.transpose(1, 2) for t in (query, key, value))
    attended: Tensor = _FlashAttention.apply(*laid_out, rows)  # type: ignore[no-untyped-call]
    return attended.transpose(1, 2)


def attention_inside_documents(query: Tensor, key: Tensor, value: Tensor, documents: int) -> Tensor:
    """Attend as the flash kernel does inside documents laid end to end: query [t, heads, d], key, value [t, groups, d]."""
    rows = query.size(0) + _ROWS * documents
    attended: Tensor = _FlashAttention.apply(query, key, value, rows)  # type: ignore[no-untyped-call]
    return attended


_ROWS = 128
"""Rows of queries in the largest block of the flash kernel's backward pass."""


class _FlashAttention(torch.autograd.Function):
    """torch's FlashAttention-2: `flash_attn/flash_api.cpp` and `attention_backward.cu` of ATen, torch 2.11.

    query [..., heads, d], key and value [..., groups, d]. `rows` of queries are allocated in backward, padding included.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, rows: int) -> Tensor:
        """Allocate the output, in the query's order of dimensions, and one fp32 number for each row of scores."""
        output = torch.empty_like(query)
        logsumexp = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, output, logsumexp)
        ctx.rows = rows
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Allocate the query's gradient in fp32 too, and the gradients of keys and values for every head."""
        query, key, value, output, _ = ctx.saved_tensors
        heads, d = query.shape[-2:]
        width = -(-d // 32) * 32 if d <= 128 else -(-d // 64) * 64
        # The kernel wants both in rows of heads: copies where samples are not laid end to end.
        held = [gradients[0].contiguous(), output.contiguous()]
        d_query, d_key, d_value = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        held += [
            query.new_empty(heads, ctx.rows, dtype=torch.float32),  # softmax_d
            query.new_empty(ctx.rows, heads, width, dtype=torch.float32),  # dq_accum
        ]
        if key.size(-2) != heads:  # dk_expanded, dv_expanded, summed over heads afterwards
            held += [key.new_empty(*key.shape[:-2], heads, d) for _ in range(2)]
        return d_query, d_key, d_value, None


class _BiasDropoutAdd(torch.autograd.Function):
    """megatron-core's `bias_dropout_add_fused_train` compiled by torch.compile: of the inputs nothing is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, residual: Tensor, p: float) -> Tensor:
        """Allocate the sum and, where something is dropped, the mask."""
        ctx.has_bias, ctx.drops = bias is not None, p > 0
        if ctx.drops:
            ctx.save_for_backward(x.new_empty(x.shape, dtype=torch.bool))
        return torch.empty_like(residual)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, Tensor, None]:
        """Allocate the gradient before dropout, if it is another one, and the bias's."""
        gradient = gradients[0]
        before = torch.empty_like(gradient) if ctx.drops else gradient
        bias = gradient.new_empty(gradient.size(-1)) if ctx.has_bias else None
        return before, bias, gradient, None


def _bias_dropout_add(x_with_bias: tuple[Tensor, Tensor | None], residual: Tensor, prob: float) -> Tensor:
    x, bias = x_with_bias
    added: Tensor = _BiasDropoutAdd.apply(x, bias, residual, prob)  # type: ignore[no-untyped-call]
    return added


def _bias_swiglu(y: Tensor, bias: Tensor) -> Tensor:
    """[n, 2f] -> [n, f]; megatron-core's `BiasSwiGLUFunction` keeps `y` and `bias`."""
    return y.new_empty(*y.shape[:-1], y.size(-1) // 2)


def _bias_swiglu_back(g: Tensor, y: Tensor, bias: Tensor) -> Tensor:
    """[n, f], [n, 2f] -> [n, 2f]."""
    return torch.empty_like(y)


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a product in place: cuBLAS allocates nothing of torch's."""
