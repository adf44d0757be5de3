"""Every message that the troubleshooting page quotes is one that the code says, word for word."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

PAGE = REPOSITORY / "docs" / "troubleshooting.md"
# A message with backticks stands between two of them.
HEADINGS = re.findall(r"^### (`+) ?(.*?) ?\1$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
QUOTED = [message for _, message in HEADINGS]


def text_of(node: ast.expr) -> str | None:
    """A text as it stands in the code, `…` for what is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return f"{text_of(node.left) or '…'}{text_of(node.right) or '…'}"
    return None


@pytest.fixture(scope="module")
def said() -> list[str]:
    texts: list[str] = []
    for package in ("retrieva_pretrain", "data_prep"):
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            texts += [text for node in nodes if isinstance(node, ast.expr) and (text := text_of(node))]
    return texts


def holds(text: str, quoted: str) -> bool:
    """Whether the parts of a quoted message stand in a text in their order."""
    pattern = ".*".join(re.escape(part) for part in quoted.split("…"))
    return re.search(pattern, text, re.DOTALL) is not None


def test_the_page_quotes_messages() -> None:
    assert len(QUOTED) > 30


@pytest.mark.parametrize("quoted", QUOTED)
def test_a_quoted_message_still_stands_in_the_code(quoted: str, said: list[str]) -> None:
    assert any(holds(text, quoted) for text in said)


def test_a_message_that_nobody_says_would_be_found_out(said: list[str]) -> None:
    assert not any(holds(text, "there is no corpse … (looked for") for text in said)
    assert not holds("another: order", "order … another")


def test_the_page_names_no_file_that_is_not_there() -> None:
    for link in re.findall(r"\]\(([^)#\s]+)", PAGE.read_text(encoding="utf-8")):
        assert (Path(PAGE.parent) / link).exists(), link
