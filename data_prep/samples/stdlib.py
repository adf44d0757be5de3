"""English prose and Python code from the standard library of the Python that runs this.

Distributions leave out parts of it, so every part is optional; this project's own modules stand in
where there is too little.
"""

from __future__ import annotations

import ast
import hashlib
import sysconfig
import textwrap
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

CODE_BYTES = 1_500_000
PROSE_BYTES = 600_000
_LARGEST_MODULE = 60_000
_SMALLEST_MODULE = 500
_SHORTEST_PROSE = 300
_OWN = Path(__file__).resolve().parents[1]
# Tests are repetitive, `encodings` are tables, the rest is not part of every Python.
_LEFT_OUT = frozenset(
    {
        *("test", "tests", "idlelib", "lib2to3", "encodings", "site-packages", "dist-packages"),
        *("__pycache__", "pydoc_data", "ensurepip", "turtledemo", "__phello__"),
    }
)


class PythonFile(NamedTuple):
    """A module: its path inside the library, and its code."""

    path: str
    code: str


class Prose(NamedTuple):
    """An English text, and a name for it."""

    name: str
    text: str


def python_files(limit: int = CODE_BYTES) -> list[PythonFile]:
    """Modules of up to `limit` UTF-8 bytes together, in an order that mixes the alphabet."""
    chosen = []
    for file in _modules():
        size = len(file.code.encode())
        if size <= limit:
            chosen.append(file)
            limit -= size
    return chosen


def prose(limit: int = PROSE_BYTES) -> list[Prose]:
    """Help topics and docstrings of up to `limit` UTF-8 bytes together."""
    chosen = []
    for text in _prose():
        size = len(text.text.encode())
        if size <= limit:
            chosen.append(text)
            limit -= size
    return chosen


def _modules() -> Iterator[PythonFile]:
    library = Path(sysconfig.get_path("stdlib"))
    yield from _modules_under(library, "")
    yield from _modules_under(_OWN, "data_prep/")


def _modules_under(root: Path, prefix: str) -> Iterator[PythonFile]:
    paths = {
        prefix + path.relative_to(root).as_posix(): path
        for path in root.rglob("*.py")
        if not _LEFT_OUT & set(path.relative_to(root).parts)
    }
    for name in sorted(paths, key=lambda name: hashlib.sha256(name.encode()).digest()):
        try:
            if not _SMALLEST_MODULE <= paths[name].stat().st_size <= _LARGEST_MODULE:
                continue
            yield PythonFile(name, paths[name].read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError):
            continue


def _prose() -> Iterator[Prose]:
    yield from _topics()
    for file in _modules():
        if text := _docstrings(file.code):
            yield Prose(file.path.removesuffix(".py"), text)


def _topics() -> Iterator[Prose]:
    """The help topics of `help()`, written as documentation."""
    try:
        topics = import_module("pydoc_data.topics").topics
    except (ImportError, AttributeError):
        return
    for name, text in sorted(topics.items()):
        if len(text) >= _SHORTEST_PROSE:
            yield Prose(f"topics/{name}", text.strip())


def _docstrings(code: str) -> str:
    """The docstrings of a module, its classes and functions, in order, where they are prose."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in old modules
            tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError):
        return ""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds)]
    texts = [textwrap.dedent(text).strip() for text in found if text and len(text) >= _SHORTEST_PROSE // 2]
    joined = "\n\n".join(texts)
    return joined if len(joined) >= _SHORTEST_PROSE else ""
