"""Weight gradients added to their fp32 sums inside the matrix product, without Apex.

megatron-core calls Apex's extension `fused_weight_gradient_mlp_cuda` for this (`tensor_parallel/layers.py`, 0.16.1 to
0.19.2) and refuses the option where it is missing. Here a product of torch's stands in its place. Without the fusion a
gradient is rounded to bf16, written, read and added: 12 bytes for each parameter and micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

AddProduct = Callable[[Tensor, Tensor, Tensor], None]
"""(sum [m, n] in fp32, a [m, k], b [k, n]): sum += a @ b, in place."""


def add_product_on_cuda(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a product of bf16 matrices to an fp32 one: cuBLAS accumulates in fp32 and never rounds to bf16."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    else:
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)


def add_product_on_host(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a product to an fp32 matrix on the CPU, where no product takes bf16 and gives fp32."""
    total.addmm_(a.to(total.dtype), b.to(total.dtype))


def torch_adds_products(device: torch.device, add_product: AddProduct) -> bool:
    """Whether this torch adds a product of bf16 matrices to an fp32 one on a device: tried once, on a small one.

    Waits for the device. A product that raises or gives another result must not be met in the first backward pass.
    """
    total = torch.ones(16, 16, device=device)
    factor = torch.full((16, 16), 0.5, dtype=torch.bfloat16, device=device)
    try:
        add_product(total, factor, factor)
    except (RuntimeError, TypeError):  # a torch without it, or without it for this device
        return False
    return bool((total == 1 + 16 * 0.25).all())


def offer_fused_weight_gradients(add_product: AddProduct) -> None:
    """Let megatron-core's linear layers add weight gradients by `add_product`, unless Apex's extension is there."""
    from megatron.core.tensor_parallel import layers

    upstream: Any = layers
    if upstream._grad_accum_fusion_available:
        return

    class WeightGradients:
        @staticmethod
        def wgrad_gemm_accum_fp32(total_input: Tensor, grad_output: Tensor, main_grad: Tensor) -> None:
            """[t, n] inputs and [t, m] gradients of outputs, added to [m, n]."""
            add_product(main_grad, grad_output.t(), total_input)

    upstream.fused_weight_gradient_mlp_cuda = WeightGradients
    upstream._grad_accum_fusion_available = True


def has_fused_weight_gradients() -> bool:
    """Whether megatron-core's linear layers have something to add weight gradients with."""
    from megatron.core.tensor_parallel import layers

    return bool(layers._grad_accum_fusion_available)
