"""The Adam that stands in where neither Transformer Engine nor Apex is installed."""

from __future__ import annotations

import pytest
import torch

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
