"""YAML -> a checked model of settings, with errors that name the file, the line and the way out.

Used for recipes and for corpus files alike: `base:` inherits from another file, `key.path=value` overrides
single fields, and whatever is wrong is said in one message, all faults together.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from retrieva_pretrain.errors import RecipeError
from retrieva_pretrain.recipe.explain import explain
from retrieva_pretrain.recipe.yaml_tree import Key, KeyPath, Tree, parse_value, read_tree, write_text

M = TypeVar("M", bound=BaseModel)


def load_yaml(model_type: type[M], path: Path, overrides: Sequence[str] = ()) -> M:
    """Load a YAML file into a pydantic model.

    Args:
        model_type: what the file must hold.
        path: the file. A top-level `base: FILE` (relative to it) is read first; mappings merge, lists and
            values replace.
        overrides: `key.path=value` strings, applied last; values are YAML, list elements are addressed by
            number from 0 (`curriculum.0.train_iters=5`), `null` unsets an optional field.

    Raises:
        RecipeError: the file cannot be read, or something in it is wrong.
    """
    tree = _with_base(Path(path), ())
    for override in overrides:
        _apply(tree, override)
    try:
        return model_type.model_validate(tree.content)
    except ValidationError as error:
        raise RecipeError(explain(error, tree, model_type)) from None


def dump_yaml(model: BaseModel) -> str:
    """Return a model as YAML that `load_yaml` reads back to the same model."""
    return write_text(model.model_dump(mode="json", exclude_none=True))


def _with_base(path: Path, heirs: tuple[Path, ...]) -> Tree:
    """Read a file and the files it inherits from."""
    tree = read_tree(path)
    if "base" not in tree.content:
        return tree
    base = tree.content.pop("base")
    place = tree.place(("base",))
    if not isinstance(base, str) or not base or "\0" in base:
        raise RecipeError(f"{place}: base: must be the name of a file, not {base!r}")
    base_path, heirs = path.parent / base, (*heirs, path)
    try:
        if not base_path.is_file():
            raise RecipeError(
                f"{place}: base: there is no file {base_path}; it is looked for beside {path.name}"
            )
        circle = [heir.resolve() for heir in heirs].count(base_path.resolve())
    except OSError:  # such as a name that is too long
        raise RecipeError(f"{place}: base: {base[:80]!r} is no name of a file") from None
    if circle:
        chain = " -> ".join(str(heir) for heir in (*heirs, base_path))
        raise RecipeError(f"{place}: base: leads in a circle, {chain}; remove one of the links")
    parent = _with_base(base_path, heirs)
    parent.merge(tree)
    return parent


def _apply(tree: Tree, override: str) -> None:
    """Put one `key.path=value` into the tree."""
    name, equals, text = override.partition("=")
    shown = override if len(override) <= 200 else override[:200] + "..."
    where = f"override {shown!r}"
    parts = name.strip().split(".")
    if not equals or not all(parts):
        raise RecipeError(f"{where}: overrides are written key.path=value, for example optimizer.lr=1e-4")
    if number := re.search(r"(?<=\w)\[([0-9]+)\]", name):
        listed = name[: number.start()]
        raise RecipeError(
            f"{where}: elements of a list are written {listed}.{number[1]}, not {listed}{number[0]}"
        )
    if parts == ["base"]:
        raise RecipeError(f"{where}: base is for files; give the inheriting file as the recipe")
    path: KeyPath = ()
    holder: Any = tree.content
    for part in parts[:-1]:
        key = _key(holder, part, path, where)
        path = (*path, key)
        if isinstance(holder, dict) and holder.get(part) is None:
            holder[part] = {}
            tree.set_place(path, where)
        holder = holder[key]
    last = _key(holder, parts[-1], path, where)
    holder[last] = parse_value(text, where)
    tree.set_place((*path, last), where)


def _key(holder: Any, part: str, path: KeyPath, where: str) -> Key:
    """Return one part of an override's name as the key of what it addresses.

    Raises RecipeError where that is a single value, or a list without such an element.
    """
    name = ".".join(map(str, path))
    if isinstance(holder, dict):
        return part
    if not isinstance(holder, list):
        raise RecipeError(f"{where}: {name} is a single value, it has no {part!r}")
    if not re.fullmatch("[0-9]{1,9}", part) or int(part) >= len(holder):
        numbers = f"numbered 0 to {len(holder) - 1}" if holder else "and it is empty"
        raise RecipeError(f"{where}: {name} is a list, {numbers}; to lengthen it, give {name}=[...] whole")
    return int(part)
