"""No link of the READMEs, the docs or the templates leads nowhere, on GitHub and in the site."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import REPOSITORY

PAGES = [
    *sorted(REPOSITORY.glob("*.md")),
    *sorted((REPOSITORY / "docs").rglob("*.md")),
    *sorted((REPOSITORY / ".github").rglob("*.md")),
]
NEEDS_MKDOCS = pytest.mark.skipif(
    importlib.util.find_spec("mkdocs") is None, reason="mkdocs is not installed (the docs extra)"
)


def prose(page: Path) -> str:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.sub(r"`[^`\n]*`", "`code`", text)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them of plain words."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    found = set()
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower().replace("`", "")
        found.add(re.sub(r"[^\w\- ]", "", words).strip().replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_links_to_files_and_headings_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"(https?|mailto):", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{page.name}: {link}"
        assert target.is_relative_to(REPOSITORY), f"{page.name}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {link}: there is {sorted(anchors(target))}"


def test_every_page_of_the_docs_stands_in_the_navigation() -> None:
    named = re.findall(r"([\w/-]+\.md)", (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"))
    pages = [path.relative_to(REPOSITORY / "docs").as_posix() for path in (REPOSITORY / "docs").rglob("*.md")]
    assert sorted(named) == sorted(pages)


@NEEDS_MKDOCS
def test_the_site_builds_strictly(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=REPOSITORY,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    page = (tmp_path / "site" / "reference" / "recipe.html").read_text(encoding="utf-8")
    assert "masking_probability" in page
    fetched = re.findall(r'<(?:script|link)[^>]+(?:src|href)="(https?://[^"]+)"', page)
    assert not fetched, "the site fetches nothing from elsewhere"


def rewritten(markdown: str, repo_url: str | None = None) -> str:
    spec = importlib.util.spec_from_file_location(
        "repository_links", REPOSITORY / "tools" / "repository_links.py"
    )
    assert spec is not None
    assert spec.loader is not None
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    page = SimpleNamespace(file=SimpleNamespace(src_uri="faults.md"))
    config = {"docs_dir": str(REPOSITORY / "docs"), "repo_url": repo_url}
    text: str = hook.on_page_markdown(markdown, page=page, config=config)
    return text


def test_links_out_of_the_docs_lead_to_the_repository_where_its_address_is_known() -> None:
    markdown = "see [the tests](../tests/training), [a page](checkpoints.md) and\n```\n[no](../link)\n```\n"
    assert rewritten(markdown) == markdown.replace("[the tests](../tests/training)", "the tests")
    assert "(https://host/us/it/tree/HEAD/tests/training)" in rewritten(markdown, "https://host/us/it/")
    assert "(https://host/us/it/blob/HEAD/Makefile)" in rewritten("[m](../Makefile)", "https://host/us/it")


def test_a_link_out_of_the_docs_to_nothing_is_a_warning_and_so_fails_the_build(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        rewritten("[gone](../tests/no_such_file.py)")
    assert "no_such_file" in caplog.text


@pytest.mark.parametrize("page", sorted((REPOSITORY / "docs").rglob("*.md")), ids=lambda page: page.stem)
def test_lists_are_written_so_that_the_site_shows_them_as_github_does(page: Path) -> None:
    """Python-Markdown wants a blank line before a list, and four blanks before what belongs to an element."""
    text = re.sub(r"^( *)```.*?^\1```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    previous = ""
    for line in text.splitlines():
        is_element = re.match(r"([-*]|\d+\.) ", line)
        in_list = re.match(r"\s*([-*]|\d+\.) ", previous) or previous.startswith(" ")
        assert not (is_element and previous.strip() and not in_list), f"a blank line before: {line}"
        assert not re.match(r" {1,3}([-*]|\d+\.) ", line), f"four blanks: {line}"
        assert not (previous.strip() == "" and re.match(r" {1,3}\S", line)), f"four blanks: {line}"
        previous = line
