"""Both READMEs say the same: the same commands, the same files, the same places to go."""

from __future__ import annotations

import re

from tests.conftest import REPOSITORY
from tests.docs.fences import SHELL, blocks_of

ENGLISH = (REPOSITORY / "README.md").read_text(encoding="utf-8")
JAPANESE = (REPOSITORY / "README.ja.md").read_text(encoding="utf-8")


def fences(page: str) -> list[tuple[str, str, list[str]]]:
    """Marks and commands, without comments, which are in the reader's own language; other blocks as they are."""
    return [
        (block.language, block.mark, block.commands if block.language in SHELL else block.text.splitlines())
        for block in blocks_of(REPOSITORY / page)
    ]


def links(text: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def headings(text: str) -> list[int]:
    return [
        len(marks)
        for marks in re.findall(r"^(#+) ", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    ]


def rows(text: str) -> list[int]:
    return [line.count("|") for line in text.splitlines() if line.startswith("|")]


def test_both_show_the_same_commands() -> None:
    assert len(fences("README.md")) > 8
    assert fences("README.ja.md") == fences("README.md")


def test_both_link_to_the_same_places() -> None:
    other = {"README.md", "README.ja.md"}
    assert sorted(set(links(JAPANESE)) - other) == sorted(set(links(ENGLISH)) - other)
    assert "README.ja.md" in links(ENGLISH)
    assert "README.md" in links(JAPANESE)


def test_both_have_the_same_sections_and_the_same_table() -> None:
    assert headings(JAPANESE) == headings(ENGLISH)
    assert rows(JAPANESE) == rows(ENGLISH)


def test_every_claim_of_the_table_links_to_something_that_is_there() -> None:
    claims = [line for line in ENGLISH.splitlines() if line.startswith("| ") and "](" in line]
    assert len(claims) > 8
    for link in (link for claim in claims for link in links(claim)):
        assert (REPOSITORY / link.split("#")[0]).exists(), link


def test_the_demo_s_last_words_name_a_section_that_is_there() -> None:
    said = (REPOSITORY / "retrieva_pretrain" / "demo.py").read_text(encoding="utf-8")
    (section,) = re.findall(r'docs: README\.md, "([^"]+)"', said)
    assert f"## {section}\n" in ENGLISH
