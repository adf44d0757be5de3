"""Fewer points of a long curve, without hiding what it does."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def envelope(x: Floats, y: Floats, most: int) -> list[dict[str, float]]:
    """Return at most `most` points of a curve; each stands for a bin of equal width in x.

    A point has the bin's last `x`, the mean `y`, the lowest `lo` and the highest `hi` of its values, and `n`, how many
    they are: a spike of one step in a thousand still shows in `hi`. Values that are not finite are left out. A
    curve that is short enough is returned as it is.

    Args:
        x: [steps], ascending.
        y: [steps].
        most: how many points, 1 or more.
    """
    known = np.isfinite(y) & np.isfinite(x)
    x, y = x[known], y[known]
    if not len(x):
        return []
    if len(x) <= most:
        return [
            {"x": float(a), "y": float(b), "lo": float(b), "hi": float(b), "n": 1}
            for a, b in zip(x, y, strict=True)
        ]
    width = (x[-1] - x[0]) / most or 1.0
    number = np.minimum(((x - x[0]) / width).astype(np.int64), most - 1)
    starts = np.flatnonzero(np.diff(number, prepend=-1))
    counts = np.diff(np.append(starts, len(x)))
    means = np.add.reduceat(y, starts) / counts
    low, high = np.minimum.reduceat(y, starts), np.maximum.reduceat(y, starts)
    ends = x[starts + counts - 1]
    return [
        {"x": float(a), "y": float(b), "lo": float(c), "hi": float(d), "n": int(n)}
        for a, b, c, d, n in zip(ends, means, low, high, counts, strict=True)
    ]
