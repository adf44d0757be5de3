"""Attention's kernels: which backends take what, how fast, their real dropout rate, and how exact they are.

Three promises of the code are held against the device: dropout is the rate that was asked for (cuDNN draws it in
sixteenths), the flash kernel equals the plain formula, and flash over documents laid end to end equals the formula with
a mask, forward and backward.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from part import Part
from parts.machine import seconds_each
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from retrieva_pretrain import platform
from retrieva_pretrain.platform.documents import attend_by_mask

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
HEADS, HEAD_SIZE = 24, 64
TOLERANCE = 0.02
"""Relative error of norms that bf16 may make against fp32."""

DROPOUT = 0.1


def run(part: Part) -> None:
    """Measure."""
    for name in BACKENDS:
        part.attempt("dropout_rate", lambda n=name: _dropout_rate(part, n), backend=name, asked=DROPOUT)
    part.attempt("default_dropout_rate", lambda: _default_dropout_rate(part), asked=DROPOUT)
    for length, samples in [(16, 2)] if part.rehearse else [(128, 64), (512, 16), (2048, 4)]:
        for name in BACKENDS:
            if name == "math" and length > 512:
                continue
            for dropout in (DROPOUT, 0.0):
                part.attempt(
                    "backend",
                    lambda n=name, s=length, b=samples, p=dropout: _speed(part, n, s, b, p),
                    backend=name,
                    seq_length=length,
                    samples=samples,
                    dropout=dropout,
                )
    part.attempt("against_formula", lambda: _against_formula(part), tolerance=TOLERANCE)
    part.attempt("documents", lambda: _documents(part), tolerance=TOLERANCE)
    part.attempt("documents_dropout_rate", lambda: _documents_dropout_rate(part), asked=DROPOUT)


def _dropout_rate(part: Part, backend: str) -> dict[str, Any]:
    with sdpa_kernel(BACKENDS[backend]):
        return {"found": _share_of_zeros(part, 64)}


def _default_dropout_rate(part: Part) -> dict[str, Any]:
    """As training has it: the backends that the platform allows for a model with dropout."""
    platform.current().choose_attention_kernels(DROPOUT)
    found = _share_of_zeros(part, 64)
    return {"found": found, "within": abs(found - DROPOUT) < 0.005}


def _share_of_zeros(part: Part, length: int) -> float:
    # Equal scores and the identity as values: the output is the dropped weights themselves.
    q = torch.zeros(64, 4, length, length, device=part.device, dtype=torch.bfloat16)
    v = torch.eye(length, device=part.device, dtype=torch.bfloat16).expand_as(q).contiguous()
    return float((F.scaled_dot_product_attention(q, q, v, dropout_p=DROPOUT) == 0).float().mean())


def _speed(part: Part, backend: str, length: int, samples: int, dropout: float) -> dict[str, Any]:
    """Forward and backward with one key-value head for all query heads."""
    mixed = torch.randn(
        length, samples, (HEADS + 2) * HEAD_SIZE, device=part.device, dtype=torch.bfloat16, requires_grad=True
    )
    sizes = [HEADS * HEAD_SIZE, HEAD_SIZE, HEAD_SIZE]
    q, k, v = (
        t.reshape(length, samples, -1, HEAD_SIZE).permute(1, 2, 0, 3) for t in mixed.split(sizes, dim=-1)
    )
    gradient = torch.randn_like(q)

    def once() -> None:
        mixed.grad = None
        with sdpa_kernel(BACKENDS[backend]):
            out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, enable_gqa=True)
        out.backward(gradient, retain_graph=True)

    # Forward 4 s s d a head, backward 2.5 times as much with scores computed again.
    flops = 3.5 * 4 * samples * HEADS * length * length * HEAD_SIZE
    each = seconds_each(once, seconds=0.2)
    return {"milliseconds": each * 1e3, "tflops": flops / each / 1e12}


def _against_formula(part: Part) -> dict[str, Any]:
    """Errors of output and gradient in bf16, as training calls it, against fp32 by the plain formula."""
    length, samples = (16, 2) if part.rehearse else (512, 4)
    platform.current().choose_attention_kernels(DROPOUT)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2)

    def formula(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = torch.einsum("bshd,btgd->bhst", q, k) / HEAD_SIZE**0.5
        return torch.einsum("bhst,btgd->bshd", scores.softmax(-1), v)

    return _errors(part, attend, formula, (samples, length))


def _documents(part: Part) -> dict[str, Any]:
    """The platform's attention over documents in bf16 against the mask in fp32; no dropout."""
    length, samples = (16, 2) if part.rehearse else (512, 4)
    bounds = _bounds(part, length, samples)
    scale = HEAD_SIZE**-0.5

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return platform.current().attend_inside_documents(q, k, v, bounds, length, 0.0, scale)

    def masked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend_by_mask(q, k, v, bounds, length, 0.0, scale)

    return _errors(part, attend, masked, (samples * length,))


def _documents_dropout_rate(part: Part) -> dict[str, Any]:
    length, samples = HEAD_SIZE, 64
    shape = (samples * length, 4, HEAD_SIZE)
    q = torch.zeros(shape, device=part.device, dtype=torch.bfloat16)
    eye = torch.eye(length, device=part.device, dtype=torch.bfloat16)
    v = eye.repeat(samples, 1).unsqueeze(1).expand(shape).contiguous()
    bounds = torch.arange(0, (samples + 1) * length, length, device=part.device, dtype=torch.int32)
    out = platform.current().attend_inside_documents(q, q, v, bounds, length, DROPOUT, 1.0)
    found = float((out == 0).float().mean())
    return {"found": found, "within": abs(found - DROPOUT) < 0.005}


def _bounds(part: Part, length: int, samples: int) -> Tensor:
    """Three documents a sample, of unequal lengths, and empty ones at the end as training pads them."""
    cuts = (0, length // 5, length // 2)
    starts = [sample * length + cut for sample in range(samples) for cut in cuts]
    return torch.tensor([*starts, *[samples * length] * 3], device=part.device, dtype=torch.int32)


def _errors(
    part: Part,
    fast: Callable[[Tensor, Tensor, Tensor], Tensor],
    exact: Callable[[Tensor, Tensor, Tensor], Tensor],
    leading: tuple[int, ...],
) -> dict[str, Any]:
    """Relative errors of the output and of the gradients of q, k and v, on the same random numbers."""
    torch.manual_seed(0)
    drawn = [
        torch.randn(*leading, heads, HEAD_SIZE, device=part.device).bfloat16() for heads in (HEADS, 1, 1)
    ]
    weights = torch.randn(*leading, HEADS, HEAD_SIZE, device=part.device)

    def run_with(work: Callable[[Tensor, Tensor, Tensor], Tensor], dtype: torch.dtype) -> list[Tensor]:
        inputs = [t.detach().to(dtype).requires_grad_() for t in drawn]
        out = work(*inputs)
        (out.float() * weights).sum().backward()
        return [out.detach().float(), *(t.grad.float() for t in inputs if t.grad is not None)]

    pairs = zip(run_with(fast, torch.bfloat16), run_with(exact, torch.float32), strict=True)
    errors = [float((one - other).norm() / other.norm()) for one, other in pairs]
    names = ("output", "query", "key", "value")
    return {"errors": dict(zip(names, errors, strict=True)), "within": max(errors) < TOLERANCE}
