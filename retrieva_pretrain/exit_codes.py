"""What the exit code of `retrieva train` says to the launcher."""

DONE = 0
"""The recipe is trained to its end."""

FAILED = 1
"""Refused or failed."""

REQUEUE = 75
"""Saved and left before the end; the same command goes on. EX_TEMPFAIL of <sysexits.h>."""
