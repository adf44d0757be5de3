"""A run on CUDA devices, one process a device."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal

import torch
import torch._inductor.config
import torch.distributed as dist
from torch.profiler import ProfilerActivity

from retrieva_pretrain.errors import RetrievaError
from retrieva_pretrain.platform.adam import use_adam_with_fused_state_layout
from retrieva_pretrain.platform.compiler import missing_for_triton
from retrieva_pretrain.platform.documents import attend_by_flash
from retrieva_pretrain.platform.norms import use_norms_that_know_sequence_parallelism
from retrieva_pretrain.platform.waits import CountsReads
from retrieva_pretrain.platform.weight_gradients import (
    add_product_on_cuda,
    has_fused_weight_gradients,
    offer_fused_weight_gradients,
    torch_adds_products,
)


class CudaPlatform(CountsReads):
    """CUDA under NCCL."""

    name: Literal["cuda", "cpu"] = "cuda"
    distributed_backend = "nccl"

    def __init__(self) -> None:
        """Choose how torch's allocator works, before anything is allocated. No device is touched."""
        super().__init__()
        use_expandable_segments()
        self._bound: torch.device | None = None

    def prepare(self, local_rank: int) -> None:
        """Bind this process to the device of its local rank; raises RetrievaError where there are fewer."""
        if local_rank >= torch.cuda.device_count():
            raise RetrievaError(
                f"process {local_rank} of this machine has no GPU: {torch.cuda.device_count()} are visible."
                " Start one process a GPU (torchrun --nproc-per-node), or set CUDA_VISIBLE_DEVICES= to use the CPU."
            )
        torch.cuda.set_device(local_rank)
        self._bound = torch.device("cuda", local_rank)
        use_adam_with_fused_state_layout()
        use_norms_that_know_sequence_parallelism()

    def make_deterministic(self) -> None:
        """Let cuBLAS and NCCL choose the same way each time, and torch refuse what has no such way."""
        # Read when the libraries start; 4096:8 is one of the two values that PyTorch's notes on reproducibility name.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        os.environ.setdefault("NCCL_ALGO", "Ring")
        torch.use_deterministic_algorithms(True)
        # It only serves to find reads of memory that nobody wrote, and costs a kernel for every tensor made empty.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        # Compiled kernels are tuned by the clock; then only ways that give the same sums are tried. Not in every torch.
        if hasattr(torch._inductor.config, "deterministic"):
            torch._inductor.config.deterministic = True

    def device(self) -> torch.device:
        """Return the bound device, in every thread: torch keeps the current one for each thread."""
        return self._bound or torch.device("cuda", torch.cuda.current_device())

    def process_group_device(self) -> torch.device | None:
        """Return the bound device."""
        return self.device()

    def pin(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a copy in page-locked memory, of torch's caching allocator for it."""
        # A thread other than the first begins with device 0 as its current one.
        with torch.cuda.device(self.device()):
            return tensor.pin_memory()

    def host_copy_bytes(self, size: int) -> int:
        """Return the power of two that holds it: so torch hands out page-locked memory, which it keeps for the next copy."""
        return 1 << (size - 1).bit_length() if size else 0

    def send(self, values: Sequence[float]) -> torch.Tensor:
        """Copy the numbers from pinned memory."""
        return self.pin(torch.tensor(values, dtype=torch.float64)).to(self.device(), non_blocking=True)

    attend_inside_documents = staticmethod(attend_by_flash)

    def choose_attention_kernels(self, attention_dropout: float) -> None:
        """Allow the flash and memory-efficient kernels, and cuDNN's where nothing is dropped.

        cuDNN's attention draws dropout in sixteenths: 0.1 would silently become another rate (torch 2.11 prefers it
        on Hopper).
        """
        torch.backends.cuda.enable_flash_sdp(True)
        torch.backends.cuda.enable_mem_efficient_sdp(True)
        torch.backends.cuda.enable_cudnn_sdp(attention_dropout == 0.0)

    def attends_grouped_heads(self, dtype: torch.dtype) -> bool:
        """Return whether flash takes the type; without it, grouped heads would fall to the kernel that keeps scores."""
        return dtype in (torch.bfloat16, torch.float16)

    def has_fp8(self) -> bool:
        """Return whether the bound device is of compute capability 8.9 (Ada, Hopper) or later."""
        return torch.cuda.get_device_capability() >= (8, 9)

    def free_memory(self) -> int:
        """Return what the driver has free on the device, and what torch keeps of it without using it."""
        cached = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return int(torch.cuda.mem_get_info()[0]) + cached

    def release_memory(self) -> None:
        """Empty the caching allocator."""
        torch.cuda.empty_cache()

    def missing_for_compilation(self) -> str | None:
        """Return what Triton lacks."""
        return missing_for_triton()

    def offer_gradient_accumulation_fusion(self) -> bool:
        """Offer torch's product that adds bf16 factors to an fp32 sum, or Apex's kernel where it is installed."""
        if not has_fused_weight_gradients() and torch_adds_products(self.device(), add_product_on_cuda):
            offer_fused_weight_gradients(add_product_on_cuda)
        return has_fused_weight_gradients()

    def abandon_process_group(self) -> None:
        """Abort NCCL's communicators where torch can (2.6 and later), which ends collectives that wait."""
        abort = getattr(dist.distributed_c10d, "_abort_process_group", dist.destroy_process_group)
        abort()

    def synchronize(self) -> None:
        """Wait for the device's queue."""
        torch.cuda.synchronize()

    def device_name(self) -> str | None:
        """Return the name of the bound device."""
        return torch.cuda.get_device_name()

    def memory(self) -> int:
        """Return the most bytes that torch ever had allocated on the device."""
        return torch.cuda.max_memory_allocated()

    def reserved_memory(self) -> int | None:
        """Return the most bytes that torch's caching allocator ever held of the device."""
        return torch.cuda.max_memory_reserved()

    def forget_peak_memory(self) -> None:
        """Let both count the most from now on."""
        torch.cuda.reset_peak_memory_stats()

    def profiler_activities(self) -> list[ProfilerActivity]:
        """Return the CPU and the device."""
        return [ProfilerActivity.CPU, ProfilerActivity.CUDA]


def use_expandable_segments() -> None:
    """Let torch's allocator grow its segments, unless the environment says how it is to work.

    Stages of different lengths ask for blocks of different sizes; segments of a fixed size would be left full of holes.
    Torch reads the variable when CUDA starts: PYTORCH_ALLOC_CONF, or PYTORCH_CUDA_ALLOC_CONF before 2.9. A newer torch
    that finds both takes the first, so that a user's own setting is put into both.
    """
    names = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
    chosen = next((os.environ[name] for name in names if os.environ.get(name)), "expandable_segments:True")
    for name in names:
        os.environ.setdefault(name, chosen)
