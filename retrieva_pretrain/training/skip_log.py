"""`skips.jsonl` in a run's folder: every skipped step, with the documents that its batch was made of."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from retrieva_pretrain import platform
from retrieva_pretrain.data.batches import TrainingSamples
from retrieva_pretrain.training.distributed import Ranks, counts_in_sums

FILE = "skips.jsonl"
_WORST = 8


def log_skip(
    run: Path,
    samples: TrainingSamples,
    ranks: Ranks,
    *,
    step: int,
    reason: str,
    figures: dict[str, float | None],
    sample_losses: Sequence[Tensor],
) -> str:
    """Write one line about a skipped step; every process calls it. Returns a short text for people.

    Args:
        run: the run's folder.
        samples: the run's samples, asked for their provenance.
        ranks: where this process stands.
        step: the 0-based step.
        reason: why it was skipped.
        figures: of the whole batch; what is not finite is written as text.
        sample_losses: [b] each, the summed losses of this process's samples in their order; read on the last
            pipeline stage only.
    """
    worst = _worst(samples, ranks, step, sample_losses)
    if not ranks.is_first:
        return ""
    documents: dict[str, set[int]] = {}
    for number in samples.step(step).tolist():
        found = samples.provenance(number)
        documents.setdefault(found.corpus, set()).update(found.documents)
    worst_samples = [
        {"sample": number, "loss": _json(loss), **_provenance(samples, number)} for loss, number in worst
    ]
    content = {
        "step": step + 1,
        "reason": reason,
        **{name: _json(value) for name, value in figures.items()},
        "worst_samples": worst_samples,
        "documents": {corpus: sorted(numbers) for corpus, numbers in documents.items()},
    }
    try:
        with (run / FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n")
    except OSError as error:  # a full disk ends no run
        return f"{FILE} cannot be written: {error}"
    told = ", ".join(
        f"{entry['corpus']} {entry['documents'][:3]} (loss {entry['loss']})" for entry in worst_samples[:2]
    )
    return f"its worst samples: {told}; all documents of the batch are in {FILE}"


def _worst(
    samples: TrainingSamples, ranks: Ranks, step: int, sample_losses: Sequence[Tensor]
) -> list[tuple[float, int]]:
    """Return the loss and the number of the samples with the highest losses, those not finite first."""
    mine: list[tuple[float, int]] = []
    if counts_in_sums():
        losses = platform.current().read(torch.cat(list(sample_losses)))
        numbers = samples.step(step)[ranks.data_parallel_rank * len(losses) :].tolist()
        mine = sorted(zip(losses, numbers, strict=False), key=_badness)[:_WORST]
    everyone: list[Any] = [None] * ranks.world_size
    dist.all_gather_object(everyone, mine)
    return sorted((pair for part in everyone for pair in part), key=_badness)[:_WORST]


def _badness(pair: tuple[float, int]) -> tuple[float, int]:
    loss, number = pair
    return (-loss if math.isfinite(loss) else -math.inf), number


def _provenance(samples: TrainingSamples, number: int) -> dict[str, Any]:
    found = samples.provenance(number)
    return {"corpus": found.corpus, "documents": found.documents}


def _json(value: float | None) -> float | str | None:
    """JSON has no numbers for what is not finite."""
    return value if value is None or math.isfinite(value) else str(value)
