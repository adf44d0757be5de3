"""Small JSON files that another process may be writing, or may never have written. No torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_mapping(path: Path) -> dict[str, Any] | None:
    """Return the mapping in a file; None where there is none, or nothing that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
