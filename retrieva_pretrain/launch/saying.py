"""What a job tells in its log."""

from __future__ import annotations

import sys
import time


def say(text: str) -> None:
    """Print to the job's log."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} retrieva: {text}\n")
    sys.stdout.flush()
