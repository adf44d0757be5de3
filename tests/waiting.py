"""Waiting for what comes in seconds, and on a machine with much else to do in minutes."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 600
"""Seconds that something may take which takes a few on a machine with nothing else to do."""


def wait_until(
    what: str, is_so: Callable[[], bool], seconds: float = PATIENCE, look_every: float = 0.2
) -> None:
    """Wait until something is so; fail naming it where it does not come."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, f"waited {seconds:.0f} s in vain for: {what}"
        time.sleep(look_every)
