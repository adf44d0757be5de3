"""What devices can do at most, by the name that torch gives them."""

from __future__ import annotations

# Dense BF16 TFLOP/s of NVIDIA's data sheets, which often print the figure with sparsity: twice as much.
_DENSE_BF16_TFLOPS = {
    "NVIDIA H200": 989.0,
    "NVIDIA H100 80GB HBM3": 989.0,  # SXM
    "NVIDIA H100 NVL": 835.0,
    "NVIDIA H100 PCIe": 756.0,
    "NVIDIA A100-SXM4-40GB": 312.0,
    "NVIDIA A100-SXM4-80GB": 312.0,
    "NVIDIA A100-PCIE-40GB": 312.0,
    "NVIDIA A100 80GB PCIe": 312.0,
}


def dense_bf16_tflops(device_name: str | None) -> float | None:
    """Return a device's dense BF16 peak, or None for one that is not known by this very name: none is guessed."""
    return None if device_name is None else _DENSE_BF16_TFLOPS.get(device_name)
