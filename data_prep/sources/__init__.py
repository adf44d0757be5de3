"""The registry of sources: what `source:` in a corpus YAML may be."""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import ValidationError

from data_prep.sources.columns import Jsonl, Parquet
from data_prep.sources.hf_dataset import HfDataset
from data_prep.sources.llm_jp_cc import LlmJpCc
from data_prep.sources.records import Document, Dropped, Record, Source
from data_prep.sources.refinedweb import RefinedWeb
from data_prep.sources.text import Text
from data_prep.sources.the_stack import TheStack
from data_prep.sources.wikipedia import Wikipedia

__all__ = ["SOURCES", "Document", "Dropped", "Record", "Source", "open_source"]

SOURCES: dict[str, type[Source]] = {
    "llm_jp_cc": LlmJpCc,
    "refinedweb": RefinedWeb,
    "wikipedia": Wikipedia,
    "the_stack": TheStack,
    "jsonl": Jsonl,
    "parquet": Parquet,
    "text": Text,
    "hf_dataset": HfDataset,
}


def open_source(name: str, options: dict[str, Any]) -> Source:
    """The source of a corpus with its options checked.

    Raises `ValueError` saying every option that is wrong, with the nearest known name.
    """
    if name not in SOURCES:
        near = difflib.get_close_matches(name, SOURCES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"no source {name!r}; {hint}there are {', '.join(SOURCES)}")
    model = SOURCES[name]
    try:
        return model.model_validate(options)
    except ValidationError as error:
        raise ValueError(_explain(error, name, list(model.model_fields))) from None


def _explain(error: ValidationError, name: str, known: list[str]) -> str:
    problems = []
    for problem in error.errors():
        field = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            near = difflib.get_close_matches(field, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(known) or 'no options'}"
            problems.append(f"{field}: the source {name} has no such option; {hint}")
        else:
            problems.append(f"{field}: {problem['msg']}")
    return "; ".join(problems)
