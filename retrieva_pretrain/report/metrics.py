"""Reading `metrics.jsonl` back; what its lines are is told in `training/metrics.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read `metrics.jsonl`: every step once (as it was last taken), evaluations likewise, in order of steps.

    A line torn by a kill is passed over.
    """
    kept: dict[tuple[Any, ...], dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if record["kind"] in ("train", "evaluation"):
            kept[record["kind"], record["step"], record.get("corpus"), record.get("seq_length")] = record
        else:
            kept[record["kind"], len(kept)] = record
    return sorted(kept.values(), key=lambda record: int(record["step"]))
