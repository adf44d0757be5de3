"""Rows of JSON lines and parquet files, which most sources share; the format is told by the content."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_prep.errors import DataPrepError
from data_prep.sources.files import is_parquet, open_decompressed
from data_prep.sources.records import Document, Dropped, Record

_BATCH_ROWS = 256
Row = dict[str, Any]


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, Row | None]]:
    """(1-based record, row with at least `columns`) of a JSON-lines or parquet file; None is a blank line.

    Raises `DataPrepError` naming the file and the line or row that is malformed or lacks a column.
    """
    if is_parquet(path) or path.suffix == ".parquet":
        yield from _parquet_rows(path, columns)
    else:
        yield from _json_rows(path, columns)


def read_column(path: Path, column: str) -> Iterator[Record]:
    """The texts of one column, blank lines counted as dropped."""
    for number, row in read_rows(path, [column]):
        if row is None:
            yield Dropped("blank_line", path, number)
        else:
            yield Document(text_of(row, column, path, number), path, number)


def text_of(row: Row, column: str, path: Path, number: int) -> str:
    """The text of a row; `DataPrepError` when it is no string."""
    value = row[column]
    if isinstance(value, str):
        return value
    raise DataPrepError(
        f"{path}: record {number}: {column!r} is {_kind(value)}, not a text. "
        "Repair or remove the record, or name another column in options."
    )


def _json_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, Row | None]]:
    with open_decompressed(path) as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                yield number, None
                continue
            row = _parse(line, path, number)
            for column in columns:
                if column not in row:
                    raise DataPrepError(f"{path}: line {number}: {missing_column(column, list(row))}")
            yield number, row


def _parse(line: bytes, path: Path, number: int) -> Row:
    where = f"{path}: line {number}"
    mend = "Repair or remove the line; a file cut short has to be downloaded again."
    try:
        # utf-8-sig on the first line alone: a byte-order mark belongs to the file, not to its text.
        row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        raise DataPrepError(
            f"{where}: byte {error.start + 1} (0x{line[error.start]:02x}) is not UTF-8. "
            "Convert the file to UTF-8, or remove the line."
        ) from None
    except json.JSONDecodeError as error:
        raise DataPrepError(
            f"{where}: not valid JSON ({error.msg} at column {error.colno}). {mend}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataPrepError(f"{where}: JSON that cannot be read ({error}). {mend}") from None
    if not isinstance(row, dict):
        raise DataPrepError(f'{where}: {_kind(row)} where an object such as {{"text": ...}} is due. {mend}')
    return row


def _parquet_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, Row | None]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as table:
            names = table.schema_arrow.names
            for column in columns:
                if column not in names:
                    raise DataPrepError(f"{path}: {missing_column(column, names)}")
            number = 0
            for batch in table.iter_batches(batch_size=_BATCH_ROWS, columns=list(columns)):
                for row in _batch_rows(batch, path, number):
                    number += 1
                    yield number, row
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataPrepError(
            f"{path}: not a readable parquet file ({reason}). It may have been cut short; download it again."
        ) from None


def _batch_rows(batch: Any, path: Path, before: int) -> list[Row]:
    try:
        rows: list[Row] = batch.to_pylist()
        return rows
    except UnicodeDecodeError:
        pass
    for index in range(batch.num_rows):
        try:
            batch.slice(index, 1).to_pylist()
        except UnicodeDecodeError:
            raise DataPrepError(
                f"{path}: row {before + index + 1}: a text that is not UTF-8. Repair or remove the row."
            ) from None
    raise AssertionError("a batch that cannot be decoded has a row that cannot")


def missing_column(column: str, present: Sequence[str]) -> str:
    """The sentence for a column that is not there: what is there, and the nearest name."""
    near = difflib.get_close_matches(column, present, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    names = ", ".join(repr(name) for name in present[:20]) or "nothing"
    return f"no {column!r}; there is {names}.{hint} Name the column of the text in options."


def _kind(value: object) -> str:
    kinds = {str: "a string", dict: "an object", list: "a list", bytes: "bytes", bool: "a truth value"}
    return "null" if value is None else kinds.get(type(value), "a number")
