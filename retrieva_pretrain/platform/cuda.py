"""A run on CUDA devices, one process a device."""

from __future__ import annotations

import os

import torch
from torch.profiler import ProfilerActivity

from retrieva_pretrain.errors import RetrievaError
from retrieva_pretrain.platform.adam import use_adam_with_fused_state_layout
from retrieva_pretrain.platform.norms import use_norms_that_know_sequence_parallelism


class CudaPlatform:
    """CUDA under NCCL."""

    name = "cuda"
    distributed_backend = "nccl"

    def prepare(self, local_rank: int) -> None:
        """Bind this process to the device of its local rank; raises RetrievaError where there are fewer."""
        if local_rank >= torch.cuda.device_count():
            raise RetrievaError(
                f"process {local_rank} of this machine has no GPU: {torch.cuda.device_count()} are visible."
                " Start one process a GPU (torchrun --nproc-per-node), or set CUDA_VISIBLE_DEVICES= to use the CPU."
            )
        torch.cuda.set_device(local_rank)
        use_adam_with_fused_state_layout()
        use_norms_that_know_sequence_parallelism()

    def make_deterministic(self) -> None:
        """Let cuBLAS and NCCL choose the same way each time, and torch refuse what has no such way."""
        # Read when the libraries start; 4096:8 is one of the two values that PyTorch's notes on reproducibility name.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        os.environ.setdefault("NCCL_ALGO", "Ring")
        torch.use_deterministic_algorithms(True)

    def device(self) -> torch.device:
        """Return the bound device."""
        return torch.device("cuda", torch.cuda.current_device())

    def synchronize(self) -> None:
        """Wait for the device's queue."""
        torch.cuda.synchronize()

    def device_name(self) -> str | None:
        """Return the name of the bound device."""
        return torch.cuda.get_device_name()

    def memory(self) -> int:
        """Return the most bytes that torch ever had allocated on the device."""
        return torch.cuda.max_memory_allocated()

    def forget_peak_memory(self) -> None:
        """Let `memory` count the most from now on."""
        torch.cuda.reset_peak_memory_stats()

    def profiler_activities(self) -> list[ProfilerActivity]:
        """Return the CPU and the device."""
        return [ProfilerActivity.CPU, ProfilerActivity.CUDA]
