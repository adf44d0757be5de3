"""The table of corpora that were built."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from data_prep.manifest import Manifest


def corpora_table(manifests: Sequence[Manifest]) -> Table:
    """Documents, tokens, bytes a token, and what was left out, a row a corpus."""
    table = Table(title="corpora", title_justify="left", box=None)
    table.add_column("corpus", overflow="fold")
    for name in ("records", "documents", "tokens", "text MB", "bytes/token", "dropped", "not read"):
        table.add_column(name, justify="right", overflow="fold")
    for manifest in manifests:
        counts = manifest.counts
        text_tokens = manifest.text_tokens
        table.add_row(
            manifest.name,
            f"{counts.records:,}",
            f"{counts.documents:,}",
            f"{counts.tokens:,}",
            f"{counts.text_bytes / 1e6:,.1f}",
            f"{counts.text_bytes / text_tokens:.2f}" if text_tokens else "-",
            f"{sum(counts.dropped.values()):,}",
            f"{sum(counts.malformed.values()):,}",
        )
    return table
