"""Lengths of time as people and schedulers write them."""

from __future__ import annotations

import re

from retrieva_pretrain.errors import RetrievaError


def parse_duration(text: str) -> float:
    """Return the seconds of `HH:MM:SS`, `D-HH:MM:SS` (as schedulers write them), or `90m`, `23h50m`, `45s`.

    Raises:
        RetrievaError: it is neither. A bare number is refused: Slurm means minutes by it, others seconds.
    """
    clock = re.fullmatch(r"(?:(\d+)-)?(\d+):([0-5]?\d):([0-5]?\d)", text)
    spelt = re.fullmatch(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text)
    match = clock or (spelt if text else None)
    if match is None:
        raise RetrievaError(
            f"{text!r} is no duration; write hours:minutes:seconds such as 23:50:00, or 23h50m, 90m, 45s"
        )
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    if not total:
        raise RetrievaError(f"{text!r}: the time limit must be longer than nothing")
    return float(total)


def format_duration(seconds: float) -> str:
    """Return a time in its two largest units: 3d04h, 4h05m, 12m30s, 9s."""
    whole = round(seconds)
    for size, large, part, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            return f"{whole // size}{large}{whole % size // part:02d}{small}"
    return f"{whole}s"
