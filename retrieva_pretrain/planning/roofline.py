"""How long kernels take on a device: each the longer of its arithmetic and its bytes, and all of them no less than the host
needs to launch them.

The method is the roofline of Williams, Waterman and Patterson (2009). Matrix products go in tiles, one at a time on each
multiprocessor: the last wave of tiles runs as long as a full one, whether it fills the card or not (NVIDIA, "Matrix
Multiplication Background"). The constants below are assumptions, not measurements of this project; `measured.json` takes
their place (`speed.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from math import ceil

from retrieva_pretrain.planning.hardware import MULTIPROCESSORS, Hardware
from retrieva_pretrain.planning.kernels import Kernel, Shape

_TILES = ((128, 256, 0.92), (256, 128, 0.92), (128, 128, 0.85), (64, 256, 0.80))
"""Rows and columns of cuBLAS's tiles, and the share of the sustained rate that one reaches: smaller ones reload more."""

_OVER_SHAPES = 0.95
"""Share of the largest product's rate that ordinary shapes keep, before waves."""

_COPY = 2.6 / 3.0
"""Share of a large copy's bandwidth that elementwise kernels, norms and reductions keep."""

_MOST_SPLITS = 8
_SHORTEST_SPLIT = 512
_PRODUCT_START = 3e-6
_PASS_START = 2e-6
"""Seconds of the shortest product's and the shortest other kernel's beginning and end on the device."""

LAUNCH = 7e-6
"""Seconds of the host for one kernel: Python, autograd and the driver."""

HOST_PAUSE = 2e-3
"""Seconds of a micro-batch in which the device waits for the host: its beginning, and what is read back."""

_FLASH = ((324 / 989, 75), (310 / 989, 330))
"""FlashAttention-2, forward and backward: the share of the dense peak that it nears with the length s as s / (s + n), and n.

From what others measured on an H100 with heads of 64, no mask and no dropout, in TFLOP/s: forward 282 at 512 positions, 318
at 2,048, 324 at 16,384 (Shah et al., "FlashAttention-3", 2024, figure 5); backward 189 at 512, 257 at 2,048, 300 at 8,192
(flash-attention, pull request 2688). Lengths below 512 are extrapolated, other heads taken as these."""

_FLASH_DROPOUT = 0.9
"""What dropout leaves of both: drawing takes 5 to 25 % on other cards (flash-attention, pull request 2439)."""

_FP32 = 67 / 989
"""An H100 without tensor cores, as torch multiplies fp32 by default."""

_FP8 = 1.6
"""Products in FP8 against bf16: twice the peak, less of it reached."""


@dataclass(frozen=True)
class Busy:
    """Seconds of one GPU by what bounds each kernel, and kernels that the host launches."""

    arithmetic: float = 0.0
    memory: float = 0.0
    launches: float = 0.0

    @property
    def device(self) -> float:
        """Seconds in which kernels run."""
        return self.arithmetic + self.memory

    @property
    def host(self) -> float:
        """Seconds that the host needs to launch them."""
        return self.launches * LAUNCH

    def __add__(self, other: Busy) -> Busy:
        return Busy(
            self.arithmetic + other.arithmetic, self.memory + other.memory, self.launches + other.launches
        )

    def __mul__(self, times: float) -> Busy:
        return Busy(self.arithmetic * times, self.memory * times, self.launches * times)


@dataclass(frozen=True)
class Rates:
    """What a device does in a second with one recipe."""

    products: float
    attention: tuple[float, float]
    """Flash kernels, forward and backward."""

    copy: float
    batched: float
    """Products of the unfused attention, which FP8 leaves alone."""


def copy_rate(hardware: Hardware) -> float:
    """Return the bytes per second, read plus write, of kernels that only move data."""
    return hardware.sustained_copy * _COPY


def rates(hardware: Hardware, shape: Shape) -> Rates:
    """Return the rates of a device with micro-batches of this shape, in operations and bytes per second."""
    precision = 1.0 if shape.element == 2 else _FP32
    sustained = hardware.sustained_operations * _OVER_SHAPES * precision
    peak = (hardware.peak_tflops or 0.0) * 1e12 * precision
    peak *= _FLASH_DROPOUT if shape.attention_dropout else 1.0
    forward, backward = (
        share * peak * shape.seq_length / (shape.seq_length + half) for share, half in _FLASH
    )
    return Rates(
        products=sustained * (_FP8 if shape.kernels.fp8 else 1.0),
        attention=(forward, backward),
        copy=copy_rate(hardware),
        batched=sustained,
    )


@lru_cache(maxsize=16_384)
def product_seconds(batch: int, m: int, n: int, k: int, rate: float) -> float:
    """Return the seconds of `batch` products [m, k] x [k, n], by arithmetic, with the best of the tiles.

    A product of few tiles is split along k. `rate` is in operations per second of the whole device.
    """
    best = float("inf")
    for rows, columns, share in _TILES:
        tiles = batch * ceil(m / rows) * ceil(n / columns)
        splits = max(1, min(_MOST_SPLITS, MULTIPROCESSORS // tiles, k // _SHORTEST_SPLIT))
        waves = ceil(tiles * splits / MULTIPROCESSORS)
        of_tile = 2.0 * rows * columns * (k / splits) / (rate / MULTIPROCESSORS * share)
        best = min(best, waves * of_tile)
    return best + _PRODUCT_START


def busy(kernels: Iterable[Kernel], rates: Rates, *, backward: bool) -> Busy:
    """Return what a device is busy with while it runs kernels one after the other."""
    arithmetic = memory = 0.0
    launches = 0
    for kernel in kernels:
        moving = kernel.bytes / rates.copy
        computing = 0.0
        if kernel.shape is not None:
            rate = rates.batched if kernel.shape[0] > 1 else rates.products
            computing = product_seconds(*kernel.shape, rate)
        elif kernel.work == "attention":
            computing = kernel.operations / rates.attention[backward]
        else:
            moving = max(moving, _PASS_START * kernel.launches)
        if computing > moving:
            arithmetic += computing
        else:
            memory += moving
        launches += kernel.launches
    return Busy(arithmetic, memory, launches)
