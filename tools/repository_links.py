"""A hook of mkdocs: links from the docs to files of the repository, which the site does not hold.

They must lead to a file that is there. With `repo_url` they become links to it, without they become plain text.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
_LOG = logging.getLogger("mkdocs.hooks.repository_links")
_LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Rewrite the links of one page, outside of its fenced code."""
    folder = (Path(config["docs_dir"]) / page.file.src_uri).parent

    def rewritten(found: re.Match[str]) -> str:
        text, link = found.groups()
        if re.match(r"[a-z]+:|#", link):
            return found[0]
        target = (folder / link.split("#")[0]).resolve()
        if target.is_relative_to(Path(config["docs_dir"]).resolve()):
            return found[0]
        if not target.is_relative_to(REPOSITORY) or not target.exists():
            _LOG.warning("%s: %s leads to no file of the repository", page.file.src_uri, link)
            return found[0]
        if not config.get("repo_url"):
            return text
        kind = "tree" if target.is_dir() else "blob"
        return f"[{text}]({config['repo_url'].rstrip('/')}/{kind}/HEAD/{target.relative_to(REPOSITORY)})"

    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else _LINK.sub(rewritten, part) for part in parts)
