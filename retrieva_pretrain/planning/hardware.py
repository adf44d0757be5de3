"""What a plan must know of a cluster. `launch` knows profiles; the command line hands on what counts here."""

from __future__ import annotations

from dataclasses import dataclass

GIB = 2**30

DEFAULT_MFU = 0.35
"""For the report of a run, which scales a plan to what the run itself has reached; `cost.py` says what others report."""

MULTIPROCESSORS = 132
"""Of an H100 SXM. No profile gives them: other cards are taken to have as many."""

_H100_TFLOPS = 989.0
_SUSTAINED_PRODUCTS = 798 / _H100_TFLOPS
"""An 8192^3 bf16 product on random data reached 798 of an H100 SXM's 989 TFLOP/s, measured by others: under load the
clock falls below what the dense peak is given for."""

_SUSTAINED_COPY = 3000 / 3350
"""A copy on the device moved 3.0 TB/s, read plus write, of 3.35; measured by others on the same card."""

_ASSUMED_BANDWIDTH = 3350.0
_ASSUMED_INTERCONNECT = 100.0
_ASSUMED_GPUS_PER_NODE = 8
INSIDE_NODE = 450.0
"""GB/s that one GPU sends to the others of its node: NVLink 4, one direction. No profile gives it: taken for every
cluster."""

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

    memory_bandwidth: float | None = None
    """GB/s of one GPU's memory."""

    interconnect_bandwidth: float | None = None
    """GB/s of one node to the others, in one direction, all adapters together."""

    max_nodes: int | None = None
    walltime: int | None = None
    """Seconds that one job may take."""

    node_hour_price: float | None = None
    price_unit: str | None = None

    @property
    def usable_memory(self) -> int | None:
        """Bytes of a GPU that a run may fill."""
        return None if self.gpu_memory is None else int(self.gpu_memory * _USABLE)

    @property
    def sustained_operations(self) -> float:
        """Operations per second that a large product reaches. Raises ValueError where the peak is not known."""
        if self.peak_tflops is None:
            raise ValueError(f"the peak of {self.name}'s GPUs is not known")
        return self.peak_tflops * 1e12 * _SUSTAINED_PRODUCTS

    @property
    def sustained_copy(self) -> float:
        """Bytes per second, read plus write, that a large copy on the device reaches."""
        return (self.memory_bandwidth or _ASSUMED_BANDWIDTH) * 1e9 * _SUSTAINED_COPY

    @property
    def node_size(self) -> int:
        """GPUs of a node; 8 where they are not known."""
        return self.gpus_per_node or _ASSUMED_GPUS_PER_NODE

    @property
    def between_nodes(self) -> float:
        """GB/s of one node to the others."""
        return self.interconnect_bandwidth or _ASSUMED_INTERCONNECT

    def assumptions(self, gpus: int) -> list[str]:
        """Return what a model of a run on so many GPUs takes for granted because it is not known."""
        made = []
        if self.memory_bandwidth is None:
            made.append(f"{_ASSUMED_BANDWIDTH:,.0f} GB/s of memory (gpu_memory_bandwidth)")
        if gpus > self.node_size and self.interconnect_bandwidth is None:
            made.append(f"{_ASSUMED_INTERCONNECT:,.0f} GB/s between nodes (interconnect_bandwidth)")
        if self.peak_tflops is not None and not 0.9 < self.peak_tflops / _H100_TFLOPS < 1.1:
            made.append("kernels that reach the same shares of their peaks as on an H100")
        return made


H100 = Hardware(
    "H100 SXM", gpus_per_node=8, gpu_memory=80 * GIB, peak_tflops=_H100_TFLOPS, memory_bandwidth=3350.0
)
"""What is assumed where no cluster is named; 989 TFLOP/s is NVIDIA's dense figure, not the 1,979 with sparsity."""
