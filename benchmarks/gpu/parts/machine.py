"""What the machine is, and its ceilings: versions, the rate of large and of this model's own products, of a copy."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from datetime import date
from typing import Any

import torch
from part import KIT, ROOT, VOCAB_SIZE, Part

from retrieva_pretrain import platform
from retrieva_pretrain.optional_packages import optional_packages
from retrieva_pretrain.platform.versions import cuda_version, nccl_version
from retrieva_pretrain.preflight import machine, rates


def run(part: Part) -> None:
    """Measure."""
    part.attempt("versions", lambda: _versions(part))
    part.attempt("gpu_health", lambda: {"nvidia_smi": machine.gpu_health(0)})
    part.attempt("matmul", lambda: {"tflops": rates.matmul_tflops()})
    part.attempt("copy", lambda: {"gb_per_second": rates.copy_gb_per_second()})
    part.attempt("host_copy", lambda: _host_copy(part))
    # Of a micro-batch of 8,192 tokens: query-key-value, projection, both of SwiGLU, and the head on its positions.
    shapes = [
        (8192, 1536, 1664),
        (8192, 1536, 1536),
        (8192, 1536, 8192),
        (8192, 4096, 1536),
        (1280, 1536, VOCAB_SIZE + 10),
    ]
    for shape in [(64, 32, 64)] if part.rehearse else shapes:
        part.attempt("product", lambda s=shape: _product(part, *s), shape="x".join(map(str, shape)))
    part.attempt("product_into_fp32", lambda: _adds_products(part))


def _versions(part: Part) -> dict[str, Any]:
    return {
        **machine.versions(),
        "CUDA": cuda_version(),
        "NCCL": nccl_version(),
        "cuDNN": torch.backends.cudnn.version(),
        "device": platform.current().device_name() or "cpu",
        "missing_for_compilation": platform.current().missing_for_compilation(),
        "C compiler": shutil.which("cc") or shutil.which("gcc"),
        "optional": optional_packages(),
        "cpus": os.cpu_count(),
        "commit": _commit(),
        "date": date.today().isoformat(),
    }


def _commit() -> str:
    packed = KIT / "commit"
    if KIT == ROOT and packed.exists():
        return packed.read_text(encoding="utf-8").strip()
    try:
        asked = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return packed.read_text(encoding="utf-8").strip() if packed.exists() else "unknown"


def _product(part: Part, m: int, k: int, n: int) -> dict[str, Any]:
    a = torch.randn(m, k, device=part.device, dtype=torch.bfloat16)
    b = torch.randn(k, n, device=part.device, dtype=torch.bfloat16)
    return {"tflops": 2 * m * k * n / seconds_each(lambda: a @ b) / 1e12}


def _adds_products(part: Part) -> dict[str, Any]:
    """Sum a weight gradient into fp32 inside the product, as training does without Apex."""
    from retrieva_pretrain.platform import weight_gradients

    add = weight_gradients.add_product_on_host if part.rehearse else weight_gradients.add_product_on_cuda
    g = torch.randn(512, 128, device=part.device).bfloat16()
    x = torch.randn(512, 64, device=part.device).bfloat16()
    total = torch.ones(128, 64, device=part.device)
    add(total, g.t(), x)
    right = 1 + g.double().t() @ x.double()
    return {"relative_error": float((total - right).norm() / right.norm())}


def _host_copy(part: Part) -> dict[str, Any]:
    """What a save's copies to the host go at, from the device to pageable and to pinned memory."""
    source = torch.ones(2**10 if part.rehearse else 2**28, device=part.device)
    pinned = torch.empty(source.shape, pin_memory=not part.rehearse)
    pageable = seconds_each(source.cpu, most=3)
    direct = seconds_each(lambda: pinned.copy_(source, non_blocking=True), most=3)
    return {
        "pageable_gb_per_second": source.nbytes / 1e9 / pageable,
        "pinned_gb_per_second": source.nbytes / 1e9 / direct,
    }


def seconds_each(work: Callable[[], object], seconds: float = 0.3, most: int = 1000) -> float:
    """Return how long a piece of work takes, over so many seconds of it or at most so many times."""
    import time

    here = platform.current()

    def times(count: int) -> float:
        here.synchronize()
        started = time.perf_counter()
        for _ in range(count):
            work()
        here.synchronize()
        return time.perf_counter() - started

    work()
    once = times(1)
    count = max(1, min(most, int(seconds / max(once, 1e-6))))
    return times(count) / count
