"""What a run's recipe was made from, kept beside it so that a page can tell what was changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data_prep.whole_files import write_whole
from retrieva_pretrain.errors import RecipeError
from retrieva_pretrain.recipe.loading import dump_yaml, load_yaml
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.recipe.yaml_tree import read_tree

FILE = "recipe.base.yaml"


def record_base(run: Path, file: Path, overrides: Sequence[str] = ()) -> None:
    """Write into a run's folder what its recipe builds on: the file of its `base:`, or without overrides itself.

    A recipe that builds on nothing leaves no such file. One that lies in the run's own folder is what an earlier
    launch has resolved, and what that launch has recorded stays.
    """
    if file.resolve().is_relative_to(run.resolve()):
        return
    content = read_tree(file).content
    base = file.parent / str(content["base"]) if "base" in content else file if overrides else None
    try:
        text = f"# {base.name}\n{dump_yaml(load_yaml(Recipe, base))}" if base is not None else None
    except RecipeError:  # a part of a recipe, which holds what several have in common
        text = None
    if text is None:
        (run / FILE).unlink(missing_ok=True)
    else:
        write_whole(run / FILE, text.encode())


def read_base(run: Path) -> tuple[str, Recipe] | None:
    """Return the name and the content of what a run's recipe builds on; None where nothing readable is recorded."""
    try:
        first = (run / FILE).read_text(encoding="utf-8").partition("\n")[0]
        return first.removeprefix("# "), load_yaml(Recipe, run / FILE)
    except (OSError, UnicodeDecodeError, RecipeError):
        return None
