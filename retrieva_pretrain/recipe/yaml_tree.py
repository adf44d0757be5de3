"""A YAML file as plain data that remembers on which line each key stood.

Scalars are read as YAML 1.2 does: `1e-4` is a number, `yes` and `012` are text. Of YAML's machinery only what
a recipe needs is accepted: no aliases (a few lines of nested ones expand to gigabytes), no tags, no merge keys.
"""

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
_TAG = "tag:yaml.org,2002:"
_SCALARS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F]+)", list("-+0123456789")),
    "float": (
        r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
}
_ACCEPTED_TAGS = {_TAG + kind for kind in (*_SCALARS, "str", "seq", "map")}


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
    """YAML's safe loader with the scalars above and without aliases."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - this is how PyYAML is told

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(
                None, None, "aliases (*name) are not supported; write the value out", event.start_mark
            )
        return super().compose_node(parent, index)


class _Dumper(yaml.SafeDumper):
    """Quotes every text that `_Loader` or a YAML 1.1 reader would take for something else."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """Escape the line ends that only Unicode knows: PyYAML writes them as they are and reads them as others."""
        style = '"' if any(character in text for character in "\x85\u2028\u2029") else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)


for _kind, (_pattern, _first) in _SCALARS.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_TAG + _kind, re.compile(rf"^(?:{_pattern})$"), _first)


def write_text(content: dict[str, Any]) -> str:
    """Return plain data as YAML that reads back to the same data."""
    text: str = yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
    return text


def read_tree(path: Path) -> Tree:
    """Read one YAML file whose top level is a mapping.

    Raises RecipeError, naming file and line, where it cannot be read or is not plain YAML.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}. Check the path.") from None
    if len(data) > _MOST_BYTES:
        raise RecipeError(
            f"{path}: more than {_MOST_BYTES:,} bytes are no YAML of ours; is it the right file?"
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise RecipeError(f"{path}: is not a text file in UTF-8; is it the right file?") from None
    node = _compose(text, str(path))
    if node is None:
        raise RecipeError(f"{path}: the file is empty; it must hold `key: value` lines")
    if not isinstance(node, yaml.MappingNode):
        raise RecipeError(f"{path}:{_line(node)}: the file must be a mapping, `key: value` lines")
    tree = Tree({}, {(): f"{path}:{_line(node)}"})
    tree.content = _convert(node, (), tree, _Loader(""), str(path))
    return tree


def parse_value(text: str, where: str) -> Any:
    """Read the value of an override as YAML.

    Raises RecipeError, beginning with `where`, where it is not plain YAML.
    """
    try:
        node = _compose(text, where)
        return None if node is None else _convert(node, (), Tree({}), _Loader(""), where)
    except RecipeError as error:
        problem = re.sub(r"^:\d+", "", str(error).removeprefix(where))
        raise RecipeError(
            f"{where}{problem}. Text with YAML's signs in it wants quotes of its own: key='\"...\"'"
        ) from None


def _compose(text: str, source: str) -> Any:
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        raise RecipeError(f"{source}{_describe(error)}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        character = error.character if isinstance(error.character, int) else ord(error.character)
        raise RecipeError(
            f"{source}:{line}: not valid YAML: the character U+{character:04X} may not stand in it"
        ) from None
    except RecursionError:
        raise RecipeError(f"{source}: is nested too deeply; is it the right file?") from None


def _describe(error: yaml.MarkedYAMLError) -> str:
    """Return `:LINE: not valid YAML: ...` with what makes PyYAML's own words clearer."""
    mark, begin = error.problem_mark or error.context_mark, error.context_mark
    problem = error.problem or error.context or "unknown"
    if "\\t" in problem:
        problem += "; indent with spaces, not tabs"
    elif "another document" in problem:
        problem = "a second document begins here (`---`); a file holds one"
    elif begin and mark and begin.line != mark.line:
        problem += f" ({error.context}, which begins on line {begin.line + 1})"
    return f":{mark.line + 1}: not valid YAML: {problem}" if mark else f": not valid YAML: {problem}"


def _line(node: Any) -> int:
    return int(node.start_mark.line) + 1


def _convert(node: Any, path: KeyPath, tree: Tree, loader: _Loader, file: str) -> Any:
    """Turn a node into plain data, noting the line of every key on the way."""
    place = f"{file}:{_line(node)}"
    if node.tag not in _ACCEPTED_TAGS:
        raise RecipeError(
            f"{place}: tags such as {node.tag.replace(_TAG, '!!')} are not supported; remove it"
        )
    if isinstance(node, yaml.ScalarNode):
        try:
            return loader.construct_object(node)
        except (yaml.YAMLError, ValueError, LookupError):
            kind = node.tag.removeprefix(_TAG)
            raise RecipeError(f"{place}: {node.value[:80]!r} cannot be read as {kind}") from None
    if isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            tree.places[(*path, number)] = f"{file}:{_line(item)}"
        return [_convert(item, (*path, number), tree, loader, file) for number, item in enumerate(node.value)]
    mapping: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = key_node.value
        where = f"{file}:{_line(key_node)}"
        if not isinstance(key_node, yaml.ScalarNode) or key == "<<":
            raise RecipeError(f"{where}: keys must be plain words; `base:` inherits from another file")
        if key in mapping:
            first = tree.places[(*path, key)].rpartition(":")[2]
            name = ".".join(map(str, (*path, key)))
            raise RecipeError(f"{where}: {name} stands here and on line {first}; remove one")
        tree.places[(*path, key)] = where
        mapping[key] = _convert(value_node, (*path, key), tree, loader, file)
    return mapping
