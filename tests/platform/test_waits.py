"""What would wait for a device is counted, on the CPU by the kind of call and on a GPU by torch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from retrieva_pretrain.platform.waits import CountsReads, count_waits

pytestmark = pytest.mark.engine
WAITING: dict[str, Callable[[torch.Tensor], object]] = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x.sum()),
    "if": lambda x: "positive" if x.sum() > 0 else "not",
    "tolist": lambda x: x.tolist(),
    "to the host": lambda x: x.cpu(),
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 0),
    "a mask as index": lambda x: x[x > 0],
    "masked_select": lambda x: x.masked_select(x > 0),
    "values under a mask": lambda x: x.clone().__setitem__(x > -1, torch.arange(4.0, device=x.device)),
    "unique": lambda x: x.unique(),
    "synchronize": lambda x: torch.cuda.synchronize(),
    "new tensor on the device": lambda x: torch.tensor([1.0], device=x.device),
    "a copy that is waited for": lambda x: torch.ones(2).to(x.device),
}
QUEUED: dict[str, Callable[[torch.Tensor], object]] = {
    "arithmetic": lambda x: (x * 2 + 1).sum() / x.norm(),
    "one value under a mask": lambda x: x.clone().__setitem__(x > 0, 0.0),
    "numbers as index": lambda x: x[torch.zeros(2, dtype=torch.long, device=x.device)],
    "foreach": lambda x: torch._foreach_mul_(torch._foreach_norm([x.clone(), x.clone()]), 0.5),
    "filled": lambda x: torch.zeros(3, device=x.device),
}


@pytest.fixture
def x(monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """A tensor where training would have it."""
    if torch.cuda.is_available():
        return torch.arange(4.0, device="cuda")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)
    return torch.arange(4.0)


@pytest.mark.parametrize("name", WAITING)
def test_each_call_that_waits_is_counted_with_its_place(name: str, x: torch.Tensor) -> None:
    with count_waits() as waits:
        WAITING[name](x)
    assert waits, name
    # `unique` waits more than once.
    assert all("tests/platform/test_waits.py:" in wait.where for wait in waits), waits
    with count_waits() as waits:
        pass
    WAITING[name](x)
    assert not waits


@pytest.mark.parametrize("name", QUEUED)
def test_what_is_only_queued_is_not(name: str, x: torch.Tensor) -> None:
    with count_waits() as waits:
        QUEUED[name](x)
    assert not waits


class WaitsInBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return gradient * 2 if gradient.sum() > 0 else gradient


def test_a_wait_in_a_backward_pass_is_counted(x: torch.Tensor) -> None:
    x.requires_grad_()
    with count_waits() as waits:
        WaitsInBackward.apply(x).sum().backward()  # type: ignore[no-untyped-call]
    assert len(waits) == 1
    assert "backward" in waits[0].where


def test_a_platform_counts_its_reads(x: torch.Tensor) -> None:
    platform = CountsReads()
    with count_waits() as waits:
        assert platform.read(x) == [0.0, 1.0, 2.0, 3.0]
    assert platform.reads == len(waits) == 1
    assert "test_a_platform_counts_its_reads" in waits[0].where
