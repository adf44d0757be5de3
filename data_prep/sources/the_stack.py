"""The Stack (`bigcode/the-stack`, `-dedup`): source code in parquet, `data/<language>/*.parquet`.

The filters LLM-jp used are options, off unless asked for: known extensions, `max_line_length: 1000`,
`avg_line_length: 100`, `alphanum_fraction: 0.25`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from data_prep.errors import DataPrepError
from data_prep.sources.records import Document, Dropped, Record, Source
from data_prep.sources.tables import Row, read_rows, text_of


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

    def read(self, path: Path) -> Iterator[Record]:
        """One document a row that passes the filters asked for; the others by the first one they fail."""
        asked = {
            "lang": self.languages,
            "ext": self.extensions,
            "max_line_length": self.max_line_length,
            "avg_line_length": self.avg_line_length,
            "alphanum_fraction": self.alphanum_fraction,
        }
        columns = ["content", *(column for column, option in asked.items() if option is not None)]
        languages = {name.casefold() for name in self.languages or ()}
        extensions = {name.removeprefix(".").casefold() for name in self.extensions or ()}
        for number, row in read_rows(path, columns):
            if row is None:
                yield Dropped("blank_line", path, number)
            elif languages and str(row["lang"]).casefold() not in languages:
                yield Dropped("language", path, number)
            elif extensions and str(row["ext"]).removeprefix(".").casefold() not in extensions:
                yield Dropped("extension", path, number)
            elif self.max_line_length is not None and _number(row, "max_line_length", path, number) > (
                self.max_line_length
            ):
                yield Dropped("max_line_length", path, number)
            elif self.avg_line_length is not None and _number(row, "avg_line_length", path, number) > (
                self.avg_line_length
            ):
                yield Dropped("avg_line_length", path, number)
            elif self.alphanum_fraction is not None and _number(row, "alphanum_fraction", path, number) < (
                self.alphanum_fraction
            ):
                yield Dropped("alphanum_fraction", path, number)
            else:
                yield Document(text_of(row, "content", path, number), path, number)


def _number(row: Row, column: str, path: Path, number: int) -> float:
    value = row[column]
    if isinstance(value, int | float):
        return value
    raise DataPrepError(
        f"{path}: record {number}: {column!r} is {value!r}, not a number. "
        f"Repair the record, or leave the {column} filter out of options."
    )
