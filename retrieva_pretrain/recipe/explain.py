"""What pydantic finds wrong, in the words of somebody who edits a YAML file."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Any, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from retrieva_pretrain.recipe.yaml_tree import KeyPath, Tree

_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text (a number or a date as text is written in quotes)",
    "string_unicode": "plain text",
    "list_type": "a list",
    "dict_type": "a mapping, `key: value` lines",
    "model_type": "a mapping, `key: value` lines",
    "model_attributes_type": "a mapping, `key: value` lines",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "string_too_long": "at most {max_length} characters long",
}


def explain(error: ValidationError, tree: Tree, model_type: type[BaseModel]) -> str:
    """Return one line `FILE:LINE: field: what is wrong; what to do` for each thing that is wrong."""
    lines: list[str] = []
    for problem in error.errors(include_url=False):
        for path, message in _findings(problem, tree, model_type):
            name = ".".join(map(str, path))
            lines.append(f"{tree.place(path)}: {name}{': ' if name else ''}{message}")
    return "\n".join(dict.fromkeys(lines))


def _findings(problem: Any, tree: Tree, model_type: type[BaseModel]) -> Iterator[tuple[KeyPath, str]]:
    """Split one of pydantic's findings into the fields at fault."""
    path: KeyPath = tuple(problem["loc"])
    if problem["type"] != "value_error":
        yield path, _message(problem, path, model_type)
        return
    whole = str(problem["msg"]).removeprefix("Value error, ")
    lines = [_field_named_in(line, path, tree, model_type) for line in whole.split("\n")]
    # Validators over several fields begin each line with the one to change; others say what they like.
    if all(field is not None for field, _ in lines):
        yield from ((field, text) for field, text in lines if field is not None)
    else:
        yield path, whole


def _field_named_in(
    line: str, path: KeyPath, tree: Tree, model_type: type[BaseModel]
) -> tuple[KeyPath | None, str]:
    found = re.match(r"([a-z_0-9]+(?:\.[a-z_0-9]+)*): (.*)", line)
    if not found:
        return None, line
    inside = tuple(int(part) if part.isdecimal() else part for part in found[1].split("."))
    # A free mapping, such as the options of a source, has keys that only the file knows.
    if _field(model_type, (*path, *inside)) is None and (*path, *inside) not in tree.places:
        return None, line
    return (*path, *inside), found[2]


def _message(problem: Any, path: KeyPath, model_type: type[BaseModel]) -> str:
    kind, context, value = problem["type"], problem.get("ctx", {}), problem["input"]
    field = _field(model_type, path)
    description = f" ({field.description})" if field is not None and field.description else ""
    if kind == "extra_forbidden":
        known = _known_keys(model_type, path[:-1])
        near = _homes(model_type, str(path[-1])) or difflib.get_close_matches(str(path[-1]), known, n=1)
        return f"unknown key; {_nearest(near)}known here: {', '.join(known)}"
    if kind == "missing":
        return f"missing; add it{description}"
    if kind in ("too_short", "string_too_short"):
        return f"must not be empty{description}"
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", context.get("expected", ""))
        near = difflib.get_close_matches(str(value), choices, n=1, cutoff=0.5)
        return f"must be {context.get('expected', 'another value')}, not {_shown(value)}{_nearest(near, last=True)}"
    if kind == "string_pattern_mismatch":
        return f"cannot be {_shown(value)}{description}"
    if kind not in _EXPECTED:
        return f"{problem['msg']}{description}, not {_shown(value)}"
    message = f"must be {_EXPECTED[kind].format(**context)}, not {_shown(value)}"
    if kind in ("int_type", "float_type") and isinstance(value, str) and _reads_as_number(value):
        message += "; write it without quotes"
    return message


def _homes(model_type: type[BaseModel], key: str, above: str = "") -> list[str]:
    """Return where else a key of this very name is known: `lr` is `optimizer.lr`."""
    found = []
    for name, field in model_type.model_fields.items():
        model = _model_in(field.annotation)
        if name == key:
            found.append(above + name)
        if model is not None:
            element = ".0" if get_origin(field.annotation) is list else ""
            found += _homes(model, key, f"{above}{name}{element}.")
    return found


def _nearest(near: list[str], last: bool = False) -> str:
    if not near:
        return ""
    named = " or ".join(near)
    return f"; did you mean {named}?" if last else f"did you mean {named}? "


def _reads_as_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _shown(value: Any) -> str:
    """Return a value as it stands in YAML, shortened."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _known_keys(model_type: type[BaseModel], path: KeyPath) -> list[str]:
    """Return the keys that the mapping at `path` may have."""
    if not path:
        return list(model_type.model_fields)
    field = _field(model_type, path)
    model = _model_in(field.annotation) if field is not None else None
    return list(model.model_fields) if model is not None else []


def _field(model_type: type[BaseModel], path: KeyPath) -> FieldInfo | None:
    """Return the field at `path`, for an element of a list that of the list; None where there is none."""
    model: type[BaseModel] | None = model_type
    field: FieldInfo | None = None
    for key in path:
        if isinstance(key, int):
            if field is None:
                return None
            continue
        if model is None or key not in model.model_fields:
            return None
        field = model.model_fields[key]
        model = _model_in(field.annotation)
    return field


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the pydantic model inside an annotation such as `list[M]` or `M | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        found = _model_in(inner)
        if found is not None:
            return found
    return None
