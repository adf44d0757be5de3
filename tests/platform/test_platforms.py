"""What the platforms answer; those of CUDA that need a device are asked where there is one."""

from __future__ import annotations

import os
import threading

import pytest
import torch

from retrieva_pretrain import platform
from retrieva_pretrain.platform.cuda import CudaPlatform, use_expandable_segments

pytestmark = pytest.mark.engine
NAMES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "expandable_segments:True"),
        ({NAMES[0]: "max_split_size_mb:64"}, "max_split_size_mb:64"),
        ({NAMES[1]: "max_split_size_mb:64"}, "max_split_size_mb:64"),
    ],
)
def test_segments_are_expandable_unless_the_user_has_said_otherwise_to_any_torch(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], expected: str
) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        if name in given:
            monkeypatch.setenv(name, given[name])
    use_expandable_segments()
    assert [os.environ[name] for name in NAMES] == [expected, expected]


def test_numbers_go_to_the_device_and_come_back_counted() -> None:
    machine = platform.current()
    before = machine.reads
    sent = machine.send([1.0, 2.5, -3.0])
    assert sent.dtype == torch.float64 and sent.device.type == machine.device().type
    assert machine.read(sent * 2) == [2.0, 5.0, -6.0]
    assert machine.send([]).shape == (0,)
    assert machine.reads == before + 1


@pytest.mark.parametrize(("size", "taken"), [(0, 0), (1, 1), (3, 4), (2**20, 2**20), (612 * 2**20, 2**30)])
def test_pinned_memory_comes_in_powers_of_two(size: int, taken: int) -> None:
    assert object.__new__(CudaPlatform).host_copy_bytes(size) == taken


def test_determinism_costs_no_filling_of_empty_tensors() -> None:
    machine = platform.current()
    before = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    try:
        machine.make_deterministic()
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = before  # type: ignore[attr-defined]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_memory_is_pinned_in_any_thread_and_reserved_memory_is_counted() -> None:
    machine = platform.current()
    machine.prepare(0)
    pinned: list[torch.Tensor] = []
    thread = threading.Thread(target=lambda: pinned.append(machine.pin(torch.arange(5))))
    thread.start()
    thread.join()
    assert pinned[0].is_pinned()
    assert pinned[0].to(machine.device(), non_blocking=True).tolist() == [0, 1, 2, 3, 4]
    reserved = machine.reserved_memory()
    assert reserved is not None and reserved >= machine.memory() > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without a GPU")
def test_the_host_pins_nothing_and_reserves_nothing() -> None:
    machine = platform.current()
    tensor = torch.arange(3)
    assert machine.pin(tensor) is tensor
    assert machine.reserved_memory() is None and machine.process_group_device() is None
