"""RefinedWeb (`tiiuae/falcon-refinedweb`): parquet shards whose text is `content`."""

from __future__ import annotations

from data_prep.sources.columns import TableSource


class RefinedWeb(TableSource):
    """Parquet (or JSON lines) whose text is `content`; it takes no options."""

    def text_column(self) -> str:
        """`content`."""
        return "content"
