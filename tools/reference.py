"""Write the reference of recipes, corpus files and cluster profiles from their schemas.

    python tools/reference.py            # after a change of a schema; `make reference`
    python tools/reference.py --check    # exit 1 where a file is stale

For each kind of YAML file it writes a page of the docs and a JSON schema beside the files themselves. The schema is for
editors: it knows names, kinds and ranges, and that a file with `base:` may leave anything out. Rules between fields are
checked by the commands alone.
"""

from __future__ import annotations

import copy
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from data_prep.corpus import CorpusConfig  # noqa: E402
from data_prep.sources import SOURCES  # noqa: E402
from retrieva_pretrain.launch.profiles import ClusterProfile  # noqa: E402
from retrieva_pretrain.recipe.schema import Recipe  # noqa: E402

Schema = dict[str, Any]
_DIALECT = "http://json-schema.org/draft-07/schema#"
_BASE = {
    "type": "string",
    "minLength": 1,
    "description": "A file to inherit from, beside this one: mappings merge, lists and values replace.",
}


@dataclass(frozen=True)
class Kind:
    """A kind of YAML file."""

    model: type[BaseModel]
    title: str
    introduction: str
    page: str
    schema: str


KINDS = (
    Kind(
        Recipe,
        "Fields of a recipe",
        "How to write one: [writing a recipe](../recipes.md).",
        "docs/reference/recipe.md",
        "recipes/recipe.schema.json",
    ),
    Kind(
        CorpusConfig,
        "Fields of a corpus file",
        "How corpora are built: [preparing corpora](../data-preparation.md).",
        "docs/reference/corpus.md",
        "recipes/corpora/corpus.schema.json",
    ),
    Kind(
        ClusterProfile,
        "Fields of a cluster profile",
        "How runs are launched: [launching](../launching.md).",
        "docs/reference/cluster.md",
        "recipes/clusters/cluster.schema.json",
    ),
)


def editor_schema(kind: Kind) -> Schema:
    """Return the JSON schema (draft 7, which editors know) of a kind of file."""
    whole = _without_noise(kind.model.model_json_schema())
    definitions = whole.pop("$defs", {})
    if kind.model is CorpusConfig:
        _add_sources(whole, definitions)
    heir = _of_an_heir(whole)
    heirs = {f"{name}OfAnHeir": _of_an_heir(schema) for name, schema in definitions.items()}
    for schema in (whole, heir):
        schema["properties"] = {"base": _BASE, **schema["properties"]}
    all_definitions = {**definitions, **heirs, "Whole": whole, "Heir": heir}
    return {
        "$schema": _DIALECT,
        "title": kind.title,
        "if": {"type": "object", "required": ["base"]},
        "then": {"$ref": "#/definitions/Heir"},
        "else": {"$ref": "#/definitions/Whole"},
        "definitions": _moved({name: all_definitions[name] for name in _used(all_definitions)}),
    }


def _without_noise(schema: Schema) -> Schema:
    """Drop pydantic's titles, which repeat names, and defaults of whole sections; close mappings by pattern."""

    def clean(node: Any) -> Any:
        if isinstance(node, list):
            return [clean(one) for one in node]
        if not isinstance(node, dict):
            return node
        kept = {
            key: value
            for key, value in node.items()
            if not (key == "title" and isinstance(value, str))
            and not (key == "default" and isinstance(value, dict))
        }
        if "patternProperties" in kept:  # pydantic means that other names are wrong
            kept.setdefault("additionalProperties", False)
        return {key: clean(value) for key, value in kept.items()}

    result: Schema = clean(schema)
    return result


def _of_an_heir(schema: Schema) -> Schema:
    """Return the schema of a file that inherits: mappings merge, so their fields may be left out; lists replace."""

    def loosen(node: Any) -> Any:
        if isinstance(node, list):
            return [loosen(one) for one in node]
        if not isinstance(node, dict):
            return node
        return {
            key: f"{value}OfAnHeir" if key == "$ref" else value if key in ("items", "if") else loosen(value)
            for key, value in node.items()
            if key != "required"
        }

    result: Schema = loosen(copy.deepcopy(schema))
    return result


def _add_sources(whole: Schema, definitions: dict[str, Schema]) -> None:
    """Say what each source takes as options, and whether it reads files."""
    whole["properties"]["source"]["enum"] = list(SOURCES)
    whole["allOf"] = []
    for name, source in SOURCES.items():
        options = _without_noise(source.model_json_schema())
        definitions.update(options.pop("$defs", {}))
        definitions[f"OptionsOf_{name}"] = options
        takes: Schema = {"properties": {"options": {"$ref": f"#/$defs/OptionsOf_{name}"}}}
        needed = [
            *(["files"] if source.reads_files else []),
            *(["options"] if options.get("required") else []),
        ]
        if needed:
            takes["required"] = needed
        if not source.reads_files:
            takes["properties"]["files"] = {"maxItems": 0}
        whole["allOf"].append(
            {"if": {"properties": {"source": {"const": name}}, "required": ["source"]}, "then": takes}
        )


def _used(definitions: dict[str, Schema]) -> list[str]:
    """Return the names that a whole file and an heir refer to, in a fixed order."""
    found: set[str] = set()
    wanted = ["Whole", "Heir"]
    while wanted:
        name = wanted.pop()
        if name not in found:
            found.add(name)
            wanted += [reference.rsplit("/", 1)[1] for reference in _references(definitions[name])]
    return sorted(found)


def _references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [reference for value in node.values() for reference in _references(value)]
    return [reference for one in node for reference in _references(one)] if isinstance(node, list) else []


def _moved(node: Any) -> Any:
    """Spell references as draft 7 does. There a $ref hides what stands beside it, so it goes into an allOf."""
    if isinstance(node, list):
        return [_moved(one) for one in node]
    if not isinstance(node, dict):
        return node
    moved = {key: _moved(value) for key, value in node.items() if key != "$ref"}
    if isinstance(node.get("$ref"), str):
        reference = {"$ref": node["$ref"].replace("#/$defs/", "#/definitions/")}
        return {**moved, "allOf": [reference]} if moved else reference
    return moved


def page(kind: Kind) -> str:
    """Return the page of the docs: a table for each section."""
    schema = kind.model.model_json_schema()
    definitions = schema.get("$defs", {})
    lines = [
        f"# {kind.title}",
        "",
        "<!-- Written by tools/reference.py from the schema: `make reference`. Do not edit. -->",
        "",
        f"{kind.introduction} The same as a JSON schema for editors: [`{kind.schema}`](../../{kind.schema}).",
        "",
        *_tables(schema, "", definitions),
    ]
    if kind.model is CorpusConfig:
        for name, source in SOURCES.items():
            options = source.model_json_schema()
            lines += [f"## options of {name}", "", *_opening(options)]
            if options.get("properties"):
                lines += _table(options, options.get("$defs", {}), "options")
    return "\n".join(lines).rstrip() + "\n"


def _tables(schema: Schema, path: str, definitions: dict[str, Schema]) -> list[str]:
    """Return the table of one section, and those of the sections in it."""
    lines = [f"## {path or 'The whole file'}", "", *_opening(schema)]
    lines += _table(schema, definitions, path)
    for name, field in schema["properties"].items():
        if inner := _section(field, definitions):
            below, is_list = inner
            lines += _tables(below, f"{path}.{name}".lstrip(".") + (".N" if is_list else ""), definitions)
    return lines


def _table(schema: Schema, definitions: dict[str, Schema], path: str) -> list[str]:
    lines = ["| field | value | default | |", "| --- | --- | --- | --- |"]
    listed = _listed(schema.get("description", ""))
    for name, field in schema["properties"].items():
        inner = _section(field, definitions)
        if inner:
            value = "a list of mappings" if inner[1] else "a mapping"
            anchor = f"{path}.{name}".lstrip(".") + (".N" if inner[1] else "")
            value = f"[{value}](#{anchor.lower().replace('.', '')})"
        else:
            value = _value(field, definitions)
        required = name in schema.get("required", [])
        default = "**required**" if required else "" if inner else _shown(field.get("default"))
        said = (
            field.get("description") or listed.get(name) or (inner or ({}, False))[0].get("description", "")
        )
        said = said.split("\n\n")[0]
        lines.append(f"| `{name}` | {value} | {default} | {_cell(said)} |")
    return [*lines, ""]


def _opening(schema: Schema) -> list[str]:
    """Return the first paragraph of a class's docstring."""
    said = schema.get("description", "").split("\n\n")[0].replace("\n", " ")
    return [said, ""] if said else []


def _listed(docstring: str) -> dict[str, str]:
    """Return what a docstring's list says of fields: lines such as "- `field`, `other`: what they mean"."""
    found = {}
    for names, said in re.findall(r"^- ((?:`\w+`(?:, )?)+): (.*(?:\n  .*)*)", docstring, re.MULTILINE):
        for name in re.findall(r"`(\w+)`", names):
            found[name] = re.sub(r"\s+", " ", said[0].upper() + said[1:] + ".")
    return found


def _section(field: Schema, definitions: dict[str, Schema]) -> tuple[Schema, bool] | None:
    """Return the mapping that a field holds, and whether it is a list of them."""
    for option in field.get("anyOf", [field]):
        target = option.get("items", option) if option.get("type") == "array" else option
        if "$ref" in target:
            found = definitions[target["$ref"].rsplit("/", 1)[1]]
            if "properties" in found:
                return found, option.get("type") == "array"
    return None


def _value(field: Schema, definitions: dict[str, Schema]) -> str:
    """Return in words what a field may hold."""
    if "$ref" in field:
        return _value(definitions[field["$ref"].rsplit("/", 1)[1]], definitions)
    if "anyOf" in field:
        return " or ".join(
            _value(option, definitions) for option in field["anyOf"] if option.get("type") != "null"
        )
    if "enum" in field:
        return ", ".join(f"`{one}`" for one in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    kind = field.get("type")
    if kind == "array":
        return f"a list of {_value(field.get('items', {}), definitions)}"
    if kind == "object":
        values = field.get("additionalProperties") or next(
            iter(field.get("patternProperties", {}).values()), {}
        )
        return (
            f"a mapping to {_value(values, definitions)}"
            if isinstance(values, dict) and values
            else "a mapping"
        )
    words = {"string": "text", "integer": "whole number", "number": "number", "boolean": "`true`, `false`"}
    limits = [
        f"{sign} {field[key]}"
        for key, sign in (
            ("exclusiveMinimum", ">"),
            ("minimum", "≥"),
            ("maximum", "≤"),
            ("exclusiveMaximum", "<"),
        )
        # Bounds of 2^31 and beyond only keep out slips.
        if key in field and abs(field[key]) < 2**31 - 1
    ]
    return " ".join([words.get(str(kind), "anything"), ", ".join(limits)]).strip()


def _shown(default: Any) -> str:
    if default is None:
        return ""
    if isinstance(default, str):
        return f"`{default}`"
    return f"`{json.dumps(default)}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def outputs() -> dict[Path, str]:
    """Return every generated file with its content."""
    files = {}
    for kind in KINDS:
        files[REPOSITORY / kind.page] = page(kind)
        files[REPOSITORY / kind.schema] = json.dumps(editor_schema(kind), indent=1, ensure_ascii=False) + "\n"
    return files


def main() -> int:
    """Write the files, or with --check only compare them."""
    files = outputs()
    stale = [
        path
        for path, content in files.items()
        if not path.is_file() or path.read_text(encoding="utf-8") != content
    ]
    for path in stale:
        print(f"{'stale' if '--check' in sys.argv else 'written'}: {path.relative_to(REPOSITORY)}")
        if "--check" not in sys.argv:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(files[path], encoding="utf-8")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
