"""LLM-jp corpus v2, Japanese CommonCrawl: `{"text": ..., "meta": {...}}` lines, one gzip file per dump."""

from __future__ import annotations

from data_prep.sources.columns import TableSource


class LlmJpCc(TableSource):
    """JSON lines (or parquet) whose text is `text`; it takes no options."""

    def text_column(self) -> str:
        """`text`."""
        return "text"
