"""Secrets of the environment, kept out of what a run writes down. No torch."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

SECRET = re.compile(r"(?i)(?:token|secret|passwd|password|credentials?|api_?key|access_?key)(?:$|_)")
"""Names of variables whose values nobody else may read."""

# Shorter values are words like "1" or "none", which would be cut out of half the text.
_SHORTEST = 6


def redacted(text: str, variables: Mapping[str, str] | None = None) -> str:
    """Return a text without the values of variables that are called tokens, keys or passwords."""
    for name, value in (os.environ if variables is None else variables).items():
        if len(value) >= _SHORTEST and SECRET.search(name):
            text = text.replace(value, f"[{name}]")
    return text
