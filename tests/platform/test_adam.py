"""The Adam that stands in where neither Transformer Engine nor Apex is installed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from retrieva_pretrain.platform.adam import GroupStepAdam

pytestmark = pytest.mark.engine


def test_it_takes_the_same_steps_as_torchs_adamw() -> None:
    torch.manual_seed(0)
    start = [torch.randn(5, 3), torch.randn(7)]
    gradients = [[torch.randn_like(p) for p in start] for _ in range(20)]
    results = []
    for kind in (GroupStepAdam, torch.optim.AdamW):
        params = [torch.nn.Parameter(p.clone()) for p in start]
        groups = [{"params": params[:1], "weight_decay": 0.1}, {"params": params[1:], "weight_decay": 0.0}]
        optimizer = kind(groups, lr=1e-2, betas=(0.9, 0.98), eps=1e-8)
        for number, gradient in enumerate(gradients):
            for group in optimizer.param_groups:
                group["lr"] = 1e-2 / (number + 1)
            for p, g in zip(params, gradient, strict=True):
                p.grad = g.clone()
            optimizer.step()
        results.append(params)
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


def test_the_step_count_stands_on_the_group_as_megatron_expects() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = GroupStepAdam([parameter])
    parameter.grad = torch.ones(2)
    optimizer.step()
    optimizer.step()
    assert optimizer.param_groups[0]["step"] == 2
    assert set(optimizer.state[parameter]) == {"exp_avg", "exp_avg_sq"}


def trained(kind: Any, **options: Any) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(size, generator=generator)) for size in (3, 50, 7, 1)]
    groups = [{"params": params[:3], "weight_decay": 0.1}, {"params": params[3:], "weight_decay": 0.0}]
    optimizer = kind(groups, lr=1e-2, betas=(0.9, 0.98), eps=1e-8, **options)
    for _ in range(5):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()
    return [p.detach() for p in params]


def test_one_step_count_for_all_gives_the_bits_of_one_for_each() -> None:
    assert all(
        torch.equal(ours, theirs)
        for ours, theirs in zip(trained(GroupStepAdam), trained(torch.optim.AdamW, fused=True), strict=True)
    )


class _Counts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    operators = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operators += 1
        return func(*args, **(kwargs or {}))


def test_a_step_calls_as_many_operators_for_many_parameters_as_for_few() -> None:
    counts = []
    for number in (2, 40):
        optimizer = GroupStepAdam([torch.nn.Parameter(torch.ones(3)) for _ in range(number)])
        for p in optimizer.param_groups[0]["params"]:
            p.grad = torch.ones(3)
        optimizer.step()
        with _Counts() as seen:  # type: ignore[no-untyped-call]
            optimizer.step()
        counts.append(seen.operators)
    assert counts[0] == counts[1] <= 4
