"""The results of a run of the kit, for people: one line each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from part import read_results

_LEFT_OUT = {"part", "kind", "tail", "top"}


def write_summary(out: Path) -> None:
    """Write summary.txt beside results.jsonl, and print it."""
    text = "\n".join(map(line_of, read_results(out))) + "\n"
    (out / "summary.txt").write_text(text, encoding="utf-8")
    print(text[-9000:], flush=True)


def line_of(result: dict[str, Any]) -> str:
    """Return one result as a line."""
    head = f"{result['part']:10s} {result['kind']:12s} "
    if result["kind"] == "speed" and "tokens_per_second" in result:
        mfu = "" if result["mfu"] is None else f" MFU {result['mfu']:6.1%}"
        return head + (
            f"{result.get('name', ''):30s} length {result['length']:<5d} x {result['samples']:<4d}"
            f" {result['tokens_per_second']:>10,.0f} tokens/s {result['tflops']:7.2f} TFLOP/s{mfu}"
            f" peak {result['peak_memory'] / 2**30:6.2f} GiB (plan {result['planned_memory'] / 2**30:6.2f})"
        )
    return head + json.dumps({k: v for k, v in result.items() if k not in _LEFT_OUT})[:300]
