"""What a run may never change: the part of a recipe on which its checkpoints depend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from retrieva_pretrain.recipe.schema import Recipe

# A restart may change where and how fast a run goes, what it says and how often it saves.
_FREE = {
    *("name", "runs_dir", "parallelism", "kernels", "checkpoint", "evaluation", "faults", "logging"),
    "deterministic",
}
_FREE_IN_DATA = {"index_dir", "prefetch_micro_batches"}
_FREE_IN_STAGE = {"max_micro_batch_size", "name", "recompute_granularity", "recompute_num_layers"}


def identity(
    recipe: Recipe,
    fingerprints: Mapping[str, str],
    tokenizer_sha256: str,
    initial: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the nested mapping on which a recipe and a checkpoint must agree.

    Args:
        recipe: the resolved recipe.
        fingerprints: of every corpus, by its path in `data.blend`. Where a corpus or the tokenizer lies does
            not count; what it holds does.
        tokenizer_sha256: of the tokenizer's model file.
        initial: what the checkpoint behind `init_from` is, wherever it lies.
    """
    content = recipe.model_dump(mode="json")
    kept = {key: value for key, value in content.items() if key not in _FREE}
    kept["curriculum"] = [
        {key: value for key, value in stage.items() if key not in _FREE_IN_STAGE}
        for stage in kept["curriculum"]
    ]
    kept["tokenizer"] = {**kept["tokenizer"], "model": tokenizer_sha256}
    kept["init_from"] = None if initial is None else dict(initial)
    kept["data"] = {
        **{key: value for key, value in kept["data"].items() if key not in _FREE_IN_DATA},
        "blend": [{**c, "path": fingerprints[c["path"]]} for c in content["data"]["blend"]],
    }
    return kept


def differences(before: Any, after: Any) -> list[str]:
    """Return one readable line `field: before -> after` for everything in which two identities differ."""
    return [f"{field}: {one} -> {other}" for field, one, other in changes(before, after)]


def changes(before: Any, after: Any, field: str = "") -> list[tuple[str, str, str]]:
    """Return the field, and both values in at most 200 letters, of everything in which two nested mappings differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [*before, *(key for key in after if key not in before)]
        pairs = [(str(key), before.get(key), after.get(key)) for key in keys]
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = [(str(i), one, other) for i, (one, other) in enumerate(zip(before, after, strict=True))]
    elif before == after:
        return []
    else:
        return [(field, _short(before), _short(after))]
    return [
        change
        for key, one, other in pairs
        for change in changes(one, other, f"{field}.{key}" if field else key)
    ]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 200 else text[:200] + "..."
