"""The one place that knows whether a run is on CUDA devices or on the host's CPU.

Everything else asks `current()` and gets the same interface on both, so that what runs on a laptop is what
runs on the cluster.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Literal, Protocol

import torch
import torch.profiler


class Platform(Protocol):
    """What training needs to know of the machine under it."""

    name: Literal["cuda", "cpu"]

    distributed_backend: str
    """The backend of `torch.distributed`: `nccl` or `gloo`."""

    reads: int
    """How often `read` was called in this process."""

    def prepare(self, local_rank: int) -> None:
        """Claim this process's device. Must run before any megatron-core object is built."""

    def make_deterministic(self) -> None:
        """Ask for results that are the same to the bit at every run. Must run before the device is used."""

    def device(self) -> torch.device:
        """The device on which this process keeps its model and batches."""

    def choose_attention_kernels(self, attention_dropout: float) -> None:
        """Set which kernels `scaled_dot_product_attention` may use, for a model with this dropout."""

    def attends_grouped_heads(self, dtype: torch.dtype) -> bool:
        """Whether a fused attention kernel for this type takes fewer key-value heads than query heads."""

    def attend_inside_documents(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        cu_seqlens: torch.Tensor,
        seq_length: int,
        dropout: float,
        softmax_scale: float,
    ) -> torch.Tensor:
        """Attend inside documents that are laid end to end (`documents.py`): [t, heads, d]."""

    def has_fp8(self) -> bool:
        """Whether the device multiplies in FP8."""

    def free_memory(self) -> int:
        """Bytes that this process could still take: of its device, or of the host's memory."""

    def release_memory(self) -> None:
        """Give back what torch keeps of memory that nothing uses any more."""

    def missing_for_compilation(self) -> str | None:
        """What torch.compile lacks on this machine; None where it has everything."""

    def offer_gradient_accumulation_fusion(self) -> bool:
        """Let megatron-core add weight gradients inside their products; returns whether it can here."""

    def abandon_process_group(self) -> None:
        """Leave the process group without waiting for collectives that are under way, after a failure."""

    def process_group_device(self) -> torch.device | None:
        """The device to bind the process group to, so that NCCL never has to guess it; None where there is none."""

    def pin(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a tensor of host memory from which a copy to the device need not be waited for.

        Any thread may call it. Torch gives pinned memory to nobody else before the copies that read it are done.
        """

    def host_copy_bytes(self, size: int) -> int:
        """Bytes of host memory that a copy of a tensor of `size` bytes of the device takes there, unless it is waited for."""

    def send(self, values: Sequence[float]) -> torch.Tensor:
        """Return numbers as a float64 tensor [n] on the device, without waiting for it."""

    def read(self, tensor: torch.Tensor) -> list[float]:
        """Return what a tensor [n] on the device holds: WAITS until the device has computed it.

        All that the training reads goes through here, and `reads` counts it.
        """

    def synchronize(self) -> None:
        """Wait until the device has finished what it was given, so that a clock can be read."""

    def device_name(self) -> str | None:
        """The device's name as torch gives it; None for the CPU, whose peak nobody states."""

    def memory(self) -> int:
        """Bytes: the most this process ever had allocated on its device, or what it holds of the host's memory."""

    def reserved_memory(self) -> int | None:
        """Bytes: the most that torch ever held of the device, in use or not; None where there is no such thing."""

    def forget_peak_memory(self) -> None:
        """Let `memory` and `reserved_memory` count the most from now on."""

    def profiler_activities(self) -> list[torch.profiler.ProfilerActivity]:
        """What torch's profiler can watch here."""


@cache
def current() -> Platform:
    """Return the platform of this process: CUDA where a device is visible, the host otherwise."""
    if torch.cuda.is_available():
        from retrieva_pretrain.platform.cuda import CudaPlatform

        return CudaPlatform()
    from retrieva_pretrain.platform.host import HostPlatform

    return HostPlatform()
