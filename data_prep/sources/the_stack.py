"""The Stack (`bigcode/the-stack`, `-dedup`): source code in parquet, `data/<language>/*.parquet`.

The filters LLM-jp used are options, off unless asked for: known extensions, `max_line_length: 1000`,
`avg_line_length: 100`, `alphanum_fraction: 0.25`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from data_prep.sources.records import Block, Document, Dropped, Malformed, Place, Range, Record, Source
from data_prep.sources.tables import Row, split_table, table_blocks, table_rows, text_or_malformed


class TheStack(Source):
    """Code whose text is `content`.

    - `languages`: keep these values of `lang`, whatever their case (all when absent)
    - `extensions`: keep these values of `ext`, without the dot (all when absent)
    - `max_line_length`, `avg_line_length`: keep up to and including these (characters)
    - `alphanum_fraction`: keep from this on (0 to 1)
    """

    languages: list[str] | None = Field(default=None, min_length=1)
    extensions: list[str] | None = Field(default=None, min_length=1)
    max_line_length: int | None = Field(default=None, ge=1)
    avg_line_length: float | None = Field(default=None, gt=0)
    alphanum_fraction: float | None = Field(default=None, ge=0, le=1)

    def ranges(self, path: Path, target_bytes: int) -> list[Range]:
        """Row groups of parquet."""
        return split_table(path, target_bytes)

    def blocks(self, path: Path, part: Range, after: Place | None = None) -> Iterator[Block | Malformed]:
        """Batches of rows with the columns the filters ask for, and the licences where there are any."""
        asked = [column for column in _FILTERED if getattr(self, _FILTERED[column]) is not None]
        return table_blocks(path, part, after, ["content", *asked], [_LICENCES])

    def records(self, path: Path, block: Block) -> Iterator[Record]:
        """One document a row that passes the filters asked for; the others by the first one they fail."""
        columns = [
            "content",
            *(column for column, name in _FILTERED.items() if getattr(self, name) is not None),
        ]
        languages = {name.casefold() for name in self.languages or ()}
        extensions = {name.removeprefix(".").casefold() for name in self.extensions or ()}
        for found in table_rows(path, block, columns):
            if not isinstance(found, tuple):
                yield found
                continue
            number, row = found
            if languages and str(row["lang"]).casefold() not in languages:
                yield Dropped("language", path, number)
            elif extensions and str(row["ext"]).removeprefix(".").casefold() not in extensions:
                yield Dropped("extension", path, number)
            else:
                yield self._by_shape(row, path, number)

    def _by_shape(self, row: Row, path: Path, number: int) -> Record:
        limits = {
            "max_line_length": self.max_line_length,
            "avg_line_length": self.avg_line_length,
            "alphanum_fraction": self.alphanum_fraction,
        }
        for column, limit in limits.items():
            if limit is None:
                continue
            value = row[column]
            if not isinstance(value, int | float):
                problem = (
                    f"{column!r} is {value!r}, not a number. "
                    f"Repair the record, or leave the {column} filter out of options."
                )
                return Malformed("not_a_number", path, number, problem, unit="record")
            if value < limit if column == "alphanum_fraction" else value > limit:
                return Dropped(column, path, number)
        text = text_or_malformed(row, "content", path, number)
        if isinstance(text, Malformed):
            return text
        return Document(text, path, number, _licences(row))


# Column: the option that asks for it.
_FILTERED = {
    "lang": "languages",
    "ext": "extensions",
    "max_line_length": "max_line_length",
    "avg_line_length": "avg_line_length",
    "alphanum_fraction": "alphanum_fraction",
}
_LICENCES = "max_stars_repo_licenses"


def _licences(row: Row) -> tuple[tuple[str, str], ...]:
    names = row.get(_LICENCES)
    if isinstance(names, str):
        names = [names]
    return tuple(("licence", str(name)) for name in dict.fromkeys(names or ()))
