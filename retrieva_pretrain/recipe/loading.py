"""YAML -> a checked model of settings, with errors that name the file, the line and the way out.

Used for recipes and for corpus files alike: `base:` inherits from another file, `key.path=value` overrides
single fields, and whatever is wrong is said in one message, all faults of a file together.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from retrieva_pretrain.errors import RecipeError
from retrieva_pretrain.recipe.yaml_tree import Key, KeyPath, Tree, parse_value, read_tree

M = TypeVar("M", bound=BaseModel)


def load_yaml(model_type: type[M], path: Path, overrides: Sequence[str] = ()) -> M:
    """Load a YAML file into a pydantic model.

    Args:
        model_type: what the file must hold.
        path: the file. A top-level `base: FILE` (relative to it) is read first; mappings merge, lists and
            values replace.
        overrides: `key.path=value` strings, applied last; values are YAML, list elements are addressed by
            number (`curriculum.0.train_iters=5`).

    Raises:
        RecipeError: the file cannot be read, or something in it is wrong.
    """
    tree = _with_base(Path(path), ())
    for override in overrides:
        _apply(tree, override)
    try:
        return model_type.model_validate(tree.content)
    except ValidationError as error:
        problems = [_explain(problem, tree, model_type) for problem in error.errors()]
        raise RecipeError("\n".join(dict.fromkeys(problems))) from None


def dump_yaml(model: BaseModel) -> str:
    """Return a model as YAML that `load_yaml` reads back to the same model."""
    content = model.model_dump(mode="json", exclude_none=True)
    text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)
    return text


def _with_base(path: Path, heirs: tuple[Path, ...]) -> Tree:
    """Read a file and the files it inherits from."""
    if path.resolve() in heirs:
        chain = " -> ".join(str(p) for p in (*heirs, path.resolve()))
        raise RecipeError(f"{path}: `base:` leads in a circle: {chain}. Remove one of the links.")
    tree = read_tree(path)
    if "base" not in tree.content:
        return tree
    base = tree.content.pop("base")
    place = tree.place(("base",))
    if not isinstance(base, str):
        raise RecipeError(f"{place}: base: must be the name of a file, not {base!r}")
    base_path = path.parent / base
    if not base_path.is_file():
        raise RecipeError(f"{place}: base: there is no file {base_path}; it is looked for beside {path.name}")
    parent = _with_base(base_path, (*heirs, path.resolve()))
    parent.merge(tree)
    return parent


def _apply(tree: Tree, override: str) -> None:
    """Put one `key.path=value` into the tree."""
    name, equals, text = override.partition("=")
    where = f"override {override!r}"
    if not equals or not all(name.split(".")):
        raise RecipeError(f"{where}: overrides are written key.path=value, for example optimizer.lr=1e-4")
    path: list[Key] = []
    holder: Any = tree.content
    parts = name.split(".")
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        if isinstance(holder, list):
            if not part.isdigit() or int(part) >= len(holder):
                raise RecipeError(
                    f"{where}: {'.'.join(map(str, path))} is a list of {len(holder)};"
                    f" address its elements as 0 to {len(holder) - 1}"
                )
            key: Key = int(part)
        elif isinstance(holder, dict):
            key = part
            if not last and holder.get(key) is None:
                holder[key] = {}
                tree.set_place((*path, key), where)
        else:
            raise RecipeError(f"{where}: {'.'.join(map(str, path))} is a single value, it has no {part!r}")
        path.append(key)
        if not last:
            holder = holder[key]
    holder[path[-1]] = parse_value(text, where)
    tree.set_place(tuple(path), where)


def _explain(problem: Any, tree: Tree, model_type: type[BaseModel]) -> str:
    """Turn one of pydantic's findings into `FILE:LINE: field: what is wrong; what to do`."""
    path: KeyPath = tuple(problem["loc"])
    message: str = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        known = _known_keys(model_type, path[:-1])
        near = difflib.get_close_matches(str(path[-1]), known, n=1, cutoff=0.5)
        advice = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
        message = f"unknown key; {advice}"
    elif problem["type"] == "missing":
        message = f"missing; add it to {_name(path[:-1]) or 'the file'}"
    elif problem["type"] == "value_error":
        path, message = _field_named_in(message, path)
    else:
        message = f"{message}, not {_short(problem['input'])}"
    return f"{tree.place(path)}: {_name(path)}{': ' if path else ''}{message}"


def _field_named_in(message: str, path: KeyPath) -> tuple[KeyPath, str]:
    """Validators over several fields begin their message with the one to change, as `field.path: `."""
    found = re.match(r"([a-z_0-9]+(?:\.[a-z_0-9]+)*): (.*)", message, re.DOTALL)
    if not found:
        return path, message
    inside = tuple(int(part) if part.isdigit() else part for part in found[1].split("."))
    return (*path, *inside), found[2]


def _known_keys(model_type: type[BaseModel], path: KeyPath) -> list[str]:
    """Return the keys that the mapping at `path` may have."""
    model: Any = model_type
    for key in path:
        annotation = model if isinstance(key, int) else model.model_fields[key].annotation
        model = _model_in(annotation)
        if model is None:
            return []
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the pydantic model inside an annotation such as `list[M]` or `M | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        found = _model_in(inner)
        if found is not None:
            return found
    return None


def _name(path: KeyPath) -> str:
    return ".".join(str(key) for key in path)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
