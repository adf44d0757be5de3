"""What a recipe runs on a cluster by default, asked for by name: so that the CPU runs what the cluster runs."""

from __future__ import annotations

FAST_KERNELS = (
    "kernels.attention_backend=sdpa",
    "kernels.bias_activation_fusion=true",
    "kernels.bias_dropout_fusion=true",
    "kernels.gradient_accumulation_fusion=true",
)
OVERLAPS = ("parallelism.overlap_grad_reduce=true", "parallelism.overlap_param_gather=true")
FAST_PATH = (*FAST_KERNELS, *OVERLAPS)
