"""Any dataset the `datasets` library reads, streamed: a name on the Hub, or a local directory."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from data_prep.errors import DataPrepError
from data_prep.sources.records import Block, Document, Malformed, Place, Range, Record, Source
from data_prep.sources.tables import missing_column, text_or_malformed

_BATCH_ROWS = 128


class HfDataset(Source):
    """A Hugging Face dataset, streamed; `files:` stays empty.

    - `path`: name on the Hub (`owner/name`) or local directory (of data files, or from `save_to_disk`)
    - `config`, `split`: their names
    - `revision`: a commit or tag; pin it, for the Hub moves
    - `column`: the column of the text
    """

    reads_files: ClassVar[bool] = False

    path: str
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    column: str = "text"

    def blocks(self, path: Path, part: Range, after: Place | None = None) -> Iterator[Block | Malformed]:
        """Rows in batches; `after` skips those before it."""
        place, rows = after or Place(), []
        for row in itertools.islice(self._rows(), place.position, None):
            if self.column not in row:
                raise DataPrepError(f"{self.path}: {missing_column(self.column, list(row))}")
            rows.append({self.column: row[self.column]})
            if len(rows) == _BATCH_ROWS:
                end = Place(place.position + len(rows), place.records + len(rows))
                yield Block(rows, place, end, 0)
                place, rows = end, []
        if rows:
            yield Block(rows, place, Place(place.position + len(rows), place.records + len(rows)), 0)

    def records(self, path: Path, block: Block) -> Iterator[Record]:
        """One document a row."""
        for number, row in enumerate(block.payload, start=block.start.records + 1):
            text = text_or_malformed(row, self.column, path, number)
            yield Document(text, path, number) if isinstance(text, str) else text

    def _rows(self) -> Iterator[dict[str, Any]]:
        import datasets

        local = Path(self.path).expanduser()
        try:
            if (local / "state.json").is_file():
                yield from datasets.load_from_disk(str(local))
            elif (local / "dataset_dict.json").is_file():
                yield from datasets.load_from_disk(str(local))[self.split]
            else:
                name = str(local) if local.exists() else self.path
                yield from datasets.load_dataset(
                    name, self.config, split=self.split, revision=self.revision, streaming=True
                )
        except DataPrepError:
            raise
        except Exception as error:  # the library raises its own, fsspec's, pyarrow's and the hub's errors
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise DataPrepError(
                f"options.path: the dataset {self.path!r} (split {self.split!r}) cannot be read: {reason}. "
                "Check the name, config, split and revision; a gated one wants `hf auth login` first."
            ) from None
