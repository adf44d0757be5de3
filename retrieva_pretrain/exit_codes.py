"""What the exit code of a training says to whoever started it. No torch: launchers read it too."""

from __future__ import annotations

DONE = 0
FAILED = 1
"""Starting again would end the same way, or nobody knows; the message says which."""

REQUEUE = 75
"""Asked to stop, saved, and good to be started again: EX_TEMPFAIL of sysexits.h."""
