"""What a plan must know of a cluster. `launch` knows profiles; the command line hands on what counts here."""

from __future__ import annotations

from dataclasses import dataclass

GIB = 2**30

DEFAULT_MFU = 0.35
"""What times assume where nothing else is said; `cost.py` says what others report."""

_USABLE = 0.94
"""Share of a GPU's memory that a run may fill: the CUDA context, NCCL's buffers, kernels' workspaces and what the
allocator cannot use take the rest. An allowance, not a measurement."""


@dataclass(frozen=True)
class Hardware:
    """The GPUs of a cluster and what its jobs may do. None is what is not known."""

    name: str
    gpus_per_node: int
    gpu_memory: int | None
    """Bytes of one GPU."""

    peak_tflops: float | None
    """Of one GPU, dense BF16."""

    max_nodes: int | None = None
    walltime: int | None = None
    """Seconds that one job may take."""

    node_hour_price: float | None = None
    price_unit: str | None = None

    @property
    def usable_memory(self) -> int | None:
        """Bytes of a GPU that a run may fill."""
        return None if self.gpu_memory is None else int(self.gpu_memory * _USABLE)


H100 = Hardware("H100 SXM", gpus_per_node=8, gpu_memory=80 * GIB, peak_tflops=989.0)
"""What is assumed where no cluster is named; 989 TFLOP/s is NVIDIA's dense figure, not the 1,979 with sparsity."""
