"""The fenced code of a page, with the mark that stands before it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SHELL = {"bash", "sh", "shell", "console"}


@dataclass(frozen=True)
class Block:
    """A fenced block. `mark` is the comment right before it, such as `run` or `not run: why`."""

    page: Path
    line: int
    language: str
    mark: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """The commands, a line each; what a here-document holds belongs to its command."""
        found: list[str] = []
        end: str | None = None
        for line in self.text.replace("\\\n", " ").splitlines():
            if end is not None:
                found[-1] += f"\n{line}"
                end = None if line == end else end
            elif command := _without_comment(line):
                found.append(command)
                here = re.search(r"<<\s*'?(\w+)'?", command)
                end = here[1] if here else None
        return found


def blocks_of(page: Path) -> Iterator[Block]:
    """Yield the blocks of a page; one that stands in a list is moved to the margin."""
    lines = page.read_text(encoding="utf-8").splitlines()
    opened: tuple[int, str, str] | None = None
    held: list[str] = []
    for number, line in enumerate(lines, 1):
        fence = re.fullmatch(r"( *)```(\w*)", line)
        if opened is None and fence:
            opened, held = (number, fence[1], fence[2]), []
        elif opened is not None and line == f"{opened[1]}```":
            before = lines[opened[0] - 2].strip() if opened[0] > 1 else ""
            mark = re.fullmatch(r"<!-- (.*) -->", before)
            yield Block(page, opened[0], opened[2], mark[1] if mark else "", "\n".join(held))
            opened = None
        elif opened is not None:
            held.append(line.removeprefix(opened[1]))
    assert opened is None, f"{page}: a fence is never closed"


def _without_comment(line: str) -> str:
    return re.sub(r"(^|\s+)#(?!\$).*$", "", line).strip()
