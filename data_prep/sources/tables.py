"""Rows of JSON lines and parquet files, which most sources share; the format is told by the content."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from data_prep.errors import DataPrepError
from data_prep.sources.files import is_parquet
from data_prep.sources.lines import Lines, line_blocks, line_number, numbered_lines, split_lines
from data_prep.sources.records import Block, Document, Dropped, Malformed, Place, Range, Record

_BATCH_ROWS = 128
Row = dict[str, Any]


def split_table(path: Path, target_bytes: int) -> list[Range]:
    """Ranges of a table: bytes of plain JSON lines, rows (whole row groups) of parquet."""
    if not _is_parquet(path):
        return split_lines(path, target_bytes)
    size = path.stat().st_size
    if size < 2 * target_bytes:
        return [Range()]
    with _open_parquet(path) as table:
        groups = [table.metadata.row_group(number).num_rows for number in range(table.num_row_groups)]
    count = min(len(groups), max(1, round(size / target_bytes)))
    starts = sorted({sum(groups[: len(groups) * number // count]) for number in range(count)})
    return [Range(start, end) for start, end in zip(starts, [*starts[1:], None], strict=True)]


def table_blocks(
    path: Path, part: Range, after: Place | None, columns: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[Block | Malformed]:
    """Blocks of a table: whole lines, or batches of at least `columns` (and those of `optional` there are)."""
    if _is_parquet(path):
        return _parquet_blocks(path, part, after, columns, optional)
    return line_blocks(path, part, after)


def table_rows(
    path: Path, block: Block, columns: Sequence[str]
) -> Iterator[tuple[int, Row] | Dropped | Malformed]:
    """(1-based record, row with at least `columns`), blank lines, and what cannot be read."""
    if isinstance(block.payload, Lines):
        return _json_rows(path, block, columns)
    return _batch_rows(path, block)


def read_column(path: Path, block: Block, column: str) -> Iterator[Record]:
    """The texts of one column, blank lines counted as dropped."""
    for found in table_rows(path, block, [column]):
        if not isinstance(found, tuple):
            yield found
            continue
        number, row = found
        text = text_or_malformed(row, column, path, number)
        yield Document(text, path, number) if isinstance(text, str) else text


def text_or_malformed(row: Row, column: str, path: Path, number: int) -> str | Malformed:
    """The text of a row, or what is there instead of one."""
    value = row[column]
    if isinstance(value, str):
        return value
    problem = (
        f"{column!r} is {_kind(value)}, not a text. "
        "Repair or remove the record, or name another column in options."
    )
    return Malformed("not_a_text", path, number, problem, unit="record")


def _is_parquet(path: Path) -> bool:
    return path.suffix == ".parquet" or is_parquet(path)


def _json_rows(
    path: Path, block: Block, columns: Sequence[str]
) -> Iterator[tuple[int, Row] | Dropped | Malformed]:
    base = block.payload.base
    for number, line in numbered_lines(block):
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError:
            if not line.strip():
                yield Dropped("blank_line", path, number)
                continue
            row = _parse(line, path, base, number)
        if isinstance(row, Malformed):
            yield row
        elif not isinstance(row, dict):
            problem = f'{_kind(row)} where an object such as {{"text": ...}} is due. {_MEND}'
            yield Malformed("not_an_object", path, line_number(path, base, number), problem)
        elif missing := next((column for column in columns if column not in row), None):
            where = line_number(path, base, number)
            yield Malformed("missing_field", path, where, missing_column(missing, list(row)))
        else:
            yield number, row


_MEND = "Repair or remove the line; a file cut short has to be downloaded again."


def _parse(line: bytes, path: Path, base: int, number: int) -> Any:
    """A line that orjson refuses; half a character (`\\ud83d`) and NaN are no error to Python's json."""
    try:
        return json.loads(line.decode())
    except UnicodeDecodeError as error:
        reason = "not_utf8"
        problem = (
            f"byte {error.start + 1} (0x{line[error.start]:02x}) is not UTF-8. "
            "Convert the file to UTF-8, or remove the line."
        )
    except json.JSONDecodeError as error:
        reason, problem = "not_json", f"not valid JSON ({error.msg} at column {error.colno}). {_MEND}"
    except (ValueError, RecursionError) as error:
        reason, problem = "not_json", f"JSON that cannot be read ({error}). {_MEND}"
    return Malformed(reason, path, line_number(path, base, number), problem)


def _open_parquet(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Column chunks are read as they are needed, not a row group at once.
        return pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataPrepError(
            f"{path}: not a readable parquet file ({reason}). It may have been cut short; download it again."
        ) from None


def _parquet_blocks(
    path: Path, part: Range, after: Place | None, columns: Sequence[str], optional: Sequence[str]
) -> Iterator[Block | Malformed]:
    import pyarrow as pa

    with _open_parquet(path) as table:
        rows, names = table.metadata.num_rows, table.schema_arrow.names
        end = rows if part.end is None else part.end
        place = after or Place(part.start, part.start)
        for column in columns:
            if column not in names:
                problem = missing_column(column, names)
                yield Malformed(
                    "missing_column", path, part.start + 1, problem, "row", max(1, end - part.start)
                )
                return
        wanted = [*columns, *(column for column in optional if column in names)]
        size = path.stat().st_size
        try:
            for batch in _batches(table, place.position, end, wanted):
                behind = Place(place.position + batch.num_rows, place.records + batch.num_rows)
                yield Block(batch, place, behind, size * behind.position // max(1, rows))
                place = behind
        except (pa.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0]
            problem = f"the rows from here on cannot be read ({reason}). Download the file again."
            yield Malformed("damaged", path, place.records + 1, problem, "row", end - place.position)


def _batches(table: Any, start: int, end: int, columns: Sequence[str]) -> Iterator[Any]:
    """The rows from `start` up to `end`, in batches that begin at the row groups and at `start`."""
    first = 0
    for number in range(table.num_row_groups):
        rows = table.metadata.row_group(number).num_rows
        behind = first + rows
        if behind > start and first < end:
            row = first
            for batch in table.iter_batches(_BATCH_ROWS, row_groups=[number], columns=list(columns)):
                low, high = max(start - row, 0), min(end - row, batch.num_rows)
                if low < high:
                    yield batch.slice(low, high - low)
                row += batch.num_rows
        first = behind


def _batch_rows(path: Path, block: Block) -> Iterator[tuple[int, Row] | Dropped | Malformed]:
    batch, before = block.payload, block.start.records
    try:
        yield from enumerate(batch.to_pylist(), start=before + 1)
        return
    except UnicodeDecodeError:
        pass
    for index in range(batch.num_rows):
        try:
            yield before + index + 1, batch.slice(index, 1).to_pylist()[0]
        except UnicodeDecodeError:
            problem = "a text that is not UTF-8. Repair or remove the row."
            yield Malformed("not_utf8", path, before + index + 1, problem, unit="row")


def missing_column(column: str, present: Sequence[str]) -> str:
    """The sentence for a column that is not there: what is there, and the nearest name."""
    near = difflib.get_close_matches(column, present, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    names = ", ".join(repr(name) for name in present[:20]) or "nothing"
    return f"no {column!r}; there is {names}.{hint} Name the column of the text in options."


def _kind(value: object) -> str:
    kinds = {str: "a string", dict: "an object", list: "a list", bytes: "bytes", bool: "a truth value"}
    return "null" if value is None else kinds.get(type(value), "a number")
