"""A YAML file as plain data that remembers on which line each key stood."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from retrieva_pretrain.errors import RecipeError

Key = str | int
KeyPath = tuple[Key, ...]

# No recipe comes near this; a larger file is something else.
_MOST_BYTES = 1 << 20
# YAML 1.1 reads 1e-4 and 1.5e4 as strings; everybody means numbers.
_FLOAT = re.compile(r"^[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$")


@dataclass
class Tree:
    """The content of one file or of several merged ones."""

    content: dict[str, Any]
    places: dict[KeyPath, str] = field(default_factory=dict)
    """`FILE:LINE` of every key, or the override that set it."""

    def place(self, path: KeyPath) -> str:
        """Return where the value at `path` was written, or what is nearest above it."""
        while path not in self.places:
            path = path[:-1]
        return self.places[path]

    def set_place(self, path: KeyPath, place: str) -> None:
        """Note that everything at and below `path` comes from `place`."""
        self.places = {p: where for p, where in self.places.items() if p[: len(path)] != path}
        self.places[path] = place

    def merge(self, heir: Tree) -> None:
        """Put an inheriting file over this one: mappings merge, everything else replaces."""
        _merge(self, heir, self.content, heir.content, ())
        self.places[()] = heir.places[()]


def _merge(tree: Tree, heir: Tree, ours: dict[str, Any], theirs: dict[str, Any], path: KeyPath) -> None:
    for key, value in theirs.items():
        here = (*path, key)
        if isinstance(value, dict) and isinstance(ours.get(key), dict):
            tree.places[here] = heir.places[here]
            _merge(tree, heir, ours[key], value, here)
            continue
        ours[key] = value
        tree.set_place(here, heir.places[here])
        tree.places |= {p: where for p, where in heir.places.items() if p[: len(here)] == here}


class _Loader(yaml.SafeLoader):
    """YAML's safe loader with numbers as people write them, and without aliases.

    A few lines of nested aliases expand to gigabytes; `base:` is how recipes share what they have in common.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(
                None, None, "aliases (*name) are not supported; write the value out", event.start_mark
            )
        return super().compose_node(parent, index)


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def read_tree(path: Path) -> Tree:
    """Read one YAML file whose top level is a mapping.

    Raises RecipeError, naming file and line, where it cannot be read or is not plain YAML.
    """
    try:
        if path.is_file() and path.stat().st_size > _MOST_BYTES:
            raise RecipeError(f"{path}: {path.stat().st_size:,} bytes is no recipe; is it the right file?")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}. Check the path.") from None
    except UnicodeDecodeError:
        raise RecipeError(f"{path}: is not a text file in UTF-8; is it the right file?") from None
    node = _compose(text, str(path))
    if not isinstance(node, yaml.MappingNode):
        raise RecipeError(f"{path}: the file must be a mapping (`key: value` lines); see recipes/demo.yaml")
    tree = Tree({}, {(): f"{path}:1"})
    loader = _Loader("")
    tree.content = _convert(node, (), tree, loader, str(path))
    return tree


def parse_value(text: str, where: str) -> Any:
    """Read the value of an override as YAML.

    Raises RecipeError, beginning with `where`, where it is not plain YAML.
    """
    node = _compose(text, where)
    if node is None:
        return None
    return _convert(node, (), Tree({}), _Loader(""), where)


def _compose(text: str, source: str) -> Any:
    loader = _Loader(text)
    try:
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise RecipeError(f"{source}{line}: not valid YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise RecipeError(f"{source}: not valid YAML: {str(error).splitlines()[0]}") from None
    finally:
        loader.dispose()


def _convert(node: Any, path: KeyPath, tree: Tree, loader: _Loader, file: str) -> Any:
    """Turn a node into plain data, noting the line of every key on the way."""
    place = f"{file}:{node.start_mark.line + 1}"
    if isinstance(node, yaml.ScalarNode):
        try:
            return loader.construct_object(node)
        except (yaml.YAMLError, ValueError):
            raise RecipeError(f"{place}: {node.value!r} cannot be read as YAML's {node.tag}") from None
    if isinstance(node, yaml.SequenceNode):
        items = []
        for number, item in enumerate(node.value):
            tree.places[(*path, number)] = f"{file}:{item.start_mark.line + 1}"
            items.append(_convert(item, (*path, number), tree, loader, file))
        return items
    mapping: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = key_node.value
        where = f"{file}:{key_node.start_mark.line + 1}"
        if not isinstance(key_node, yaml.ScalarNode) or key == "<<":
            raise RecipeError(f"{where}: keys must be plain words; use `base:` to inherit from another file")
        if key in mapping:
            raise RecipeError(f"{where}: {'.'.join(map(str, (*path, key)))} stands twice; remove one")
        tree.places[(*path, key)] = where
        mapping[key] = _convert(value_node, (*path, key), tree, loader, file)
    return mapping
