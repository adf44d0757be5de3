"""Kernels by choice, from those that megatron-core brings to those that a recipe takes on CUDA by itself. No torch."""

from __future__ import annotations

NONE = (
    "kernels.attention_backend=unfused",
    "kernels.bias_activation_fusion=false",
    "kernels.bias_dropout_fusion=false",
    "kernels.gradient_accumulation_fusion=false",
)
SDPA = (*NONE, "kernels.attention_backend=sdpa")
SWIGLU = (*SDPA, "kernels.bias_activation_fusion=true")
DROPOUT = (*SWIGLU, "kernels.bias_dropout_fusion=true")
FUSED = (*DROPOUT, "kernels.gradient_accumulation_fusion=true")
COMPILED = "kernels.compile_layers=true"

CHOICES = {
    "unfused": NONE,
    "sdpa": SDPA,
    "+ bias and SwiGLU": SWIGLU,
    "+ bias, dropout and residual": DROPOUT,
    "+ gradient accumulation": FUSED,
}
COMPILED_CHOICES = {
    "sdpa and compiled layers": (*SDPA, COMPILED),
    # Gradient sums inside of products do not go with compiled layers.
    "bias fusions and compiled layers": (*DROPOUT, COMPILED),
}

LAYERS = 12
"""Of the 48: a model is built in seconds. The head and the embedding stay whole."""

AT = {128: 64, 512: 16, 2048: 4}
"""Length -> samples of a micro-batch."""
