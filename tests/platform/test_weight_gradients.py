"""The product that adds weight gradients is tried before training relies on it."""

from __future__ import annotations

import torch
from torch import Tensor

from retrieva_pretrain.platform.weight_gradients import (
    add_product_on_cuda,
    add_product_on_host,
    torch_adds_products,
)

HOST = torch.device("cpu")


def test_a_product_that_adds_is_taken() -> None:
    assert torch_adds_products(HOST, add_product_on_host)


def test_one_that_raises_or_overwrites_is_not() -> None:
    def overwrites(total: Tensor, a: Tensor, b: Tensor) -> None:
        total.copy_((a @ b).float())

    # The CPU has no product of bf16 matrices with an fp32 sum, as an older torch has none on CUDA.
    assert not torch_adds_products(HOST, add_product_on_cuda)
    assert not torch_adds_products(HOST, overwrites)


def test_sums_are_in_fp32_and_in_place() -> None:
    total = torch.zeros(3, 2)
    a, b = torch.randn(3, 5).bfloat16(), torch.randn(5, 2).bfloat16()
    address = total.data_ptr()
    for _ in range(2):
        add_product_on_host(total, a, b)
    torch.testing.assert_close(total, 2 * (a.float() @ b.float()))
    assert total.data_ptr() == address
