"""How fast Wikipedia dumps become text on one core: the parsers to choose from, and the whole source.

    python benchmarks/wikipedia.py /data/wikipedia/*.bz2

For each dump, in MB of wikitext a second of one core: what mwparserfromhell and wikitextparser take to parse whole
pages, with no text taken out of them; what mwparserfromhell takes for the pages without comments, extension tags,
templates and tables (the least a cleaning with it can take); our cleaning from wikitext to text; reading the XML
alone; and the source from file to texts. wikitextparser is measured where it is installed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mwparserfromhell

from data_prep.sources import Document, open_source
from data_prep.sources.mediawiki_dump import Page, dump_blocks, pages_of
from data_prep.sources.records import Block, Range
from data_prep.wikitext import clean_wikitext
from data_prep.wikitext.extensions import take_out
from data_prep.wikitext.namespaces import removed_names
from data_prep.wikitext.nesting import cut_nested


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dumps", type=Path, nargs="+")
    options = parser.parse_args()
    for path in options.dumps:
        _measure(path)


def _parse_all(wikitextparser: Any) -> Callable[[str], object]:
    """It parses what is asked for only: here links, templates and tables, as a cleaning has to."""

    def parse(text: str) -> object:
        parsed = wikitextparser.parse(text)
        return parsed.templates, parsed.wikilinks, parsed.tables

    return parse


def _measure(path: Path) -> None:
    start = time.process_time()
    blocks = [block for block in dump_blocks(path, Range(), None) if isinstance(block, Block)]
    pages = [page for block in blocks for page in pages_of(path, block) if isinstance(page, Page)]
    reading = time.process_time() - start
    texts = [page.text for page in pages if page.namespace == 0 and not page.is_redirect]
    size = sum(len(text.encode()) for text in texts) / 1e6
    print(f"{path.name}: {len(pages)} pages, {len(texts)} articles, {size:.1f} MB of wikitext")
    print(f"  reading the XML           {size / reading:6.2f} MB/s")
    names = removed_names()
    ways: dict[str, Callable[[str], object]] = {
        "mwparserfromhell, whole": mwparserfromhell.parse,
        "mwparserfromhell, cut": lambda text: mwparserfromhell.parse(cut_nested(take_out(text)[0])),
        "ours, cleaning": lambda text: clean_wikitext(text, removed=names),
    }
    try:
        import wikitextparser

        ways["wikitextparser, whole"] = _parse_all(wikitextparser)
    except ImportError:
        print("  wikitextparser           not installed")
    for name, way in ways.items():
        start = time.process_time()
        for text in texts:
            way(text)
        print(f"  {name:25} {size / (time.process_time() - start):6.2f} MB/s")
    start = time.process_time()
    documents = sum(isinstance(record, Document) for record in open_source("wikipedia", {}).read(path))
    print(f"  the source, {documents} documents  {size / (time.process_time() - start):6.2f} MB/s")


if __name__ == "__main__":
    main()
