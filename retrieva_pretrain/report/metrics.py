"""Reading `metrics.jsonl` back; what its lines are is told in `training/metrics.py`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

_MAY_BE_NAN = ("loss", "masked_accuracy", "grad_norm")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read `metrics.jsonl`: every step once (as it was last taken), evaluations likewise, in order of steps.

    A line torn by a kill is passed over. A loss, accuracy or gradient norm that was not finite is NaN, so that it can
    be compared and drawn like any other.
    """
    kept: dict[tuple[Any, ...], dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        record.update({name: math.nan for name in _MAY_BE_NAN if name in record and record[name] is None})
        if record["kind"] in ("train", "evaluation"):
            kept[record["kind"], record["step"], record.get("corpus"), record.get("seq_length")] = record
        else:
            kept[record["kind"], len(kept)] = record
    return sorted(kept.values(), key=lambda record: int(record["step"]))
