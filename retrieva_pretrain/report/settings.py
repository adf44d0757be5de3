"""The settings of runs on the page: beside what they were made from, and beside each other's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from retrieva_pretrain.bundled import recipes_folder
from retrieva_pretrain.recipe.base import read_base
from retrieva_pretrain.recipe.identity import changes
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.report.history import RunHistory
from retrieva_pretrain.report.table import NONE, Table


@dataclass
class Base:
    """What a run's recipe is compared with."""

    name: str
    table: Table


def compare_with_base(run: RunHistory, recipe: Recipe, given: Path | None) -> Base:
    """Compare with the recipe that is given, else with the one that was recorded, else with the nearest of ours.

    Raises:
        RecipeError: the one that is given cannot be read.
    """
    if given is not None:
        candidates = [(given.name, load_yaml(Recipe, given))]
    elif (recorded := read_base(run.folder)) is not None:
        candidates = [recorded]
    else:
        candidates = [
            (path.name, load_yaml(Recipe, path)) for path in sorted(recipes_folder().glob("*.yaml"))
        ]
    shown = shown_recipe(recipe)
    found = [(name, changes(shown_recipe(base), shown)) for name, base in candidates]
    name, changed = min(found, key=lambda pair: len(pair[1]))
    return Base(name, Table(["setting", name, "this run"], [list(c) for c in changed], frozenset({0, 1, 2})))


def settings_that_differ(runs: Sequence[RunHistory], labels: Sequence[str]) -> Table | None:
    """Return the settings in which several runs differ; None where they do not, or for one run."""
    known = [
        (label, _flat(shown_recipe(run.recipe)))
        for run, label in zip(runs, labels, strict=True)
        if run.recipe
    ]
    if len(known) < 2:
        return None
    keys = list(dict.fromkeys(key for _, flat in known for key in flat))
    rows = [[key, *(flat.get(key, NONE) for _, flat in known)] for key in keys
            if key not in ("name", "runs_dir") and len({flat.get(key) for _, flat in known}) > 1]  # fmt: skip
    return (
        Table(["setting", *(label for label, _ in known)], rows, frozenset(range(len(known) + 1)))
        if rows
        else None
    )


def shown_recipe(recipe: Recipe) -> Any:
    """A recipe without where this machine keeps things."""
    return _without_places(recipe.model_dump(mode="json", exclude_none=True))


def _without_places(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_places(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_without_places(part) for part in value]
    return f".../{PurePath(value).name}" if isinstance(value, str) and value.startswith("/") else value


def _flat(value: Any, name: str = "") -> dict[str, str]:
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list):
        pairs = list(enumerate(value))
    else:
        return {name: str(value)}
    return {
        k: v for key, part in pairs for k, v in _flat(part, f"{name}.{key}" if name else str(key)).items()
    }
