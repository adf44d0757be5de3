"""Documents that hold long n-grams of evaluation texts: found, and attributed to their tasks.

The n-grams are of characters, since Japanese has no spaces, and are compared after NFKC, case folding and
the removal of everything that is no letter, mark or digit. Each is hashed by a polynomial over its code
points; a hash that is found is confirmed by the text itself, so that no document is dropped by chance.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from data_prep.errors import DataPrepError
from data_prep.sources.files import expand, open_decompressed

_BASE = 0x9E3779B97F4A7C15
_BITMAP_BITS = 24
# Characters looked at together, so that a text of any length takes little memory.
_WINDOW = 1 << 20


class Contamination(BaseModel):
    """Which evaluation texts the documents must not hold.

    - `tasks`: files of each task: JSON lines, JSON, or plain text (one a line); compressed ones too
    - `ngram_characters`: a document with so many characters in a row of an evaluation text is dropped;
      shorter evaluation texts are not looked for
    - `fields`: the keys whose strings count, at any depth (all when absent)
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    tasks: Annotated[dict[str, list[str]], Field(min_length=1)]
    ngram_characters: Annotated[int, Field(ge=8)] = 20
    fields: list[str] | None = None


@dataclass(frozen=True)
class TaskSummary:
    """What is looked for of one task: texts, distinct n-grams, and the texts too short to be used."""

    texts: int
    ngrams: int
    unused: int


class ContaminationIndex:
    """The n-grams of all tasks. `fingerprint` (sha256, hex) changes with them and with the settings."""

    def __init__(self, ngrams: dict[str, set[str]], size: int, summary: dict[str, TaskSummary]) -> None:
        self.size = size
        self.summary = summary
        self._tasks: dict[str, tuple[str, ...]] = {}
        for task in sorted(ngrams):
            for ngram in ngrams[task]:
                self._tasks[ngram] = (*self._tasks.get(ngram, ()), task)
        ordered = sorted(self._tasks)
        digest = hashlib.sha256(f"{size}\n".encode())
        for ngram in ordered:
            digest.update(f"{ngram}\t{','.join(self._tasks[ngram])}\n".encode())
        self.fingerprint = digest.hexdigest()
        joined = np.concatenate([_code_points(ngram) for ngram in ordered])
        self._hashes = np.unique(_rolling(joined, size)[::size])
        self._bitmap = np.zeros(1 << _BITMAP_BITS, bool)
        self._bitmap[self._hashes >> np.uint64(64 - _BITMAP_BITS)] = True

    @classmethod
    def load(cls, config: Contamination) -> ContaminationIndex:
        """Read the evaluation files.

        Raises `DataPrepError` for a file that is missing or malformed, and a task without a usable text.
        """
        size = config.ngram_characters
        ngrams: dict[str, set[str]] = {}
        summary = {}
        for task, patterns in config.tasks.items():
            found: set[str] = set()
            texts = unused = 0
            for path in _files(task, patterns):
                for text in _texts(path, config.fields):
                    normal = normalise(text)
                    texts += 1
                    unused += len(normal) < size
                    found.update(normal[start : start + size] for start in range(len(normal) - size + 1))
            if not found:
                raise DataPrepError(
                    f"decontaminate.tasks.{task}: none of its {texts:,} texts has {size} letters or digits. "
                    "Check the files and `fields`, or lower ngram_characters."
                )
            ngrams[task] = found
            summary[task] = TaskSummary(texts, len(found), unused)
        return cls(ngrams, size, summary)

    def find(self, text: str) -> tuple[str, ...]:
        """The tasks an n-gram of which stands in the text, sorted; empty for a clean text."""
        found: set[str] = set()
        for start in range(0, max(len(text), 1), _WINDOW):
            # Windows overlap by more than an n-gram with what normalisation removes in it would take.
            normal = normalise(text[start : start + _WINDOW + 64 * self.size])
            for position in self._candidates(normal):
                found.update(self._tasks.get(normal[position : position + self.size], ()))
        return tuple(sorted(found))

    def _candidates(self, normal: str) -> list[int]:
        if len(normal) < self.size:
            return []
        hashes = _rolling(_code_points(normal), self.size)
        places = np.flatnonzero(self._bitmap[hashes >> np.uint64(64 - _BITMAP_BITS)])
        if not len(places):
            return []
        chosen = hashes[places]
        nearest = np.minimum(np.searchsorted(self._hashes, chosen), len(self._hashes) - 1)
        return [int(place) for place in places[self._hashes[nearest] == chosen]]


def normalise(text: str) -> str:
    """NFKC and case folded, letters, marks and digits alone."""
    if not text.isascii() and not unicodedata.is_normalized("NFKC", text):
        text = unicodedata.normalize("NFKC", text)
    text = text.casefold()
    points = _code_points(text)
    kept = points[_kept()[points]]
    return kept.tobytes().decode("utf-32-le")


def _code_points(text: str) -> npt.NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "replace"), "<u4")


_KEPT: list[npt.NDArray[np.bool_]] = []


def _kept() -> npt.NDArray[np.bool_]:
    """For each code point whether it is a letter, a mark or a number; made once, when first asked for."""
    if not _KEPT:
        table = np.fromiter((unicodedata.category(chr(point))[0] in "LMN" for point in range(0x110000)), bool)
        _KEPT.append(table)
    return _KEPT[0]


def _rolling(points: npt.NDArray[np.uint32], size: int) -> npt.NDArray[np.uint64]:
    """The hash of every run of `size` code points: sum of point[i] * BASE^(size - 1 - i), modulo 2^64.

    By doubling: the hash of 2k points is that of the first k times BASE^k, plus that of the second k.
    """
    mask = (1 << 64) - 1
    power = points.astype(np.uint64)
    length, base = 1, _BASE
    result: npt.NDArray[np.uint64] | None = None
    done = 0
    remaining = size
    while remaining:
        if remaining & 1:
            if result is None:
                result, done = power, length
            else:
                count = len(points) - done - length + 1
                result = result[:count] * np.uint64(base) + power[done : done + count]
                done += length
        remaining >>= 1
        if remaining:
            count = len(points) - 2 * length + 1
            if count <= 0:
                return np.zeros(0, np.uint64)
            power = power[:count] * np.uint64(base) + power[length : length + count]
            length, base = 2 * length, base * base & mask
    assert result is not None
    # A product's low bits know only the last characters; the bitmap and the order look at the high ones.
    return (result ^ (result >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)


def _files(task: str, patterns: list[str]) -> list[Path]:
    try:
        return expand(patterns)
    except DataPrepError as error:
        raise DataPrepError(f"decontaminate.tasks.{task}: {error}") from None


def _texts(path: Path, fields: list[str] | None) -> Iterator[str]:
    with open_decompressed(path) as stream:
        data = stream.read()
    try:
        content = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataPrepError(f"{path}: byte {error.start + 1} is not UTF-8. Convert the file.") from None
    if not content.lstrip().startswith(("{", "[")):
        yield from (line for line in content.splitlines() if line.strip())
        return
    try:
        whole = json.loads(content)
    except ValueError:
        whole = None
    if whole is not None:
        yield from _strings(whole, fields, fields is None)
        return
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield from _strings(json.loads(line), fields, fields is None)
        except ValueError as error:
            raise DataPrepError(f"{path}: line {number}: not valid JSON ({error}).") from None


def _strings(value: Any, fields: list[str] | None, counts: bool) -> Iterator[str]:
    if isinstance(value, str):
        if counts:
            yield value
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item, fields, counts)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _strings(item, fields, counts or (fields is not None and key in fields))
