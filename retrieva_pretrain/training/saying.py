"""The lines of a run's log."""

from __future__ import annotations

import sys
import time


def say(text: str) -> None:
    """Print one line of the run's log, with the time of day."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()
