"""Reads JGLUE's own files. No torch.

JSTS, JNLI, MARC-ja and JCommonsenseQA are JSON lines, JSQuAD is in SQuAD's JSON; each plain or gzipped.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from retrieva_pretrain.errors import EvaluationError
from retrieva_pretrain.evaluation.tasks import Task

Split = Literal["train", "valid"]


@dataclass(frozen=True)
class TaskFiles:
    """The two files of a task."""

    train: Path
    valid: Path

    def sha256(self) -> str:
        """Return a fingerprint of both, over what they hold rather than how it is compressed."""
        digest = hashlib.sha256()
        for path in (self.train, self.valid):
            with _open(path) as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        return digest.hexdigest()


def find_files(data: Path, task: Task) -> TaskFiles:
    """Return a task's files in a copy of JGLUE: of its newest version, or in the folder itself.

    Raises:
        EvaluationError: they are not there.
    """
    if not data.is_dir():
        raise EvaluationError(f"{data}: no such folder; --data names the folder that holds JGLUE's datasets")
    versions = sorted(
        (p for p in data.glob(f"{task.folder}*") if re.fullmatch(rf"{task.folder}(-v[\d.]+)?", p.name)),
        key=lambda path: [int(number) for number in re.findall(r"\d+", path.name)],
    )
    nested = data / "datasets"
    if not versions and nested.is_dir():
        return find_files(nested, task)
    if not versions:
        raise EvaluationError(
            f"{data}: holds no folder {task.folder}-v1.x of {task.title}; there are: {_listing(data)}."
            " Get JGLUE's `datasets` folder, or leave the task out with --task"
        )
    return TaskFiles(_file(versions[-1], "train"), _file(versions[-1], "valid"))


def _file(folder: Path, split: Split) -> Path:
    found = sorted(p for p in folder.iterdir() if re.fullmatch(rf"{split}(-v[\d.]+)?\.jsonl?(\.gz)?", p.name))
    if not found:
        raise EvaluationError(
            f"{folder}: holds no {split}-v1.x.json or {split}-v1.x.json.gz; there are: {_listing(folder)}"
        )
    return found[-1]


def _listing(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    return (", ".join(names[:8]) + (", ..." if len(names) > 8 else "")) or "no files"


def _open(path: Path) -> Any:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def read_examples(path: Path, task: Task, limit: int | None = None) -> list[dict[str, Any]]:
    """Return the examples of one file.

    Texts stand under the task's own field names. `label` is the label's number (classification, multiple choice)
    or the score from 0 to 5 (regression); question answering has `id` and `answers`, a list of pairs of the text
    and its first character.

    Raises:
        EvaluationError: a line is not JSON, or a field is missing or of another kind; names the line and the field.
    """
    read = _questions if task.kind == "question_answering" else _lines
    try:
        examples = []
        for example in read(path, task):
            examples.append(example)
            if limit is not None and len(examples) == limit:
                break
    except (OSError, EOFError) as error:
        raise EvaluationError(f"{path}: cannot be read: {error}") from None
    if not examples:
        raise EvaluationError(f"{path}: holds no example")
    return examples


def _lines(path: Path, task: Task) -> Iterator[dict[str, Any]]:
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            place = f"{path}, line {number}"
            record = _json(line, place)
            example: dict[str, Any] = {name: _text(record, name, place) for name in task.fields}
            example["label"] = _label(record, task, place)
            yield example


def _questions(path: Path, task: Task) -> Iterator[dict[str, Any]]:
    with _open(path) as file:
        content = _json(file.read(), str(path))
    for a, article in enumerate(_list(content, "data", str(path))):
        for p, paragraph in enumerate(_list(article, "paragraphs", f"{path}, data[{a}]")):
            place = f"{path}, data[{a}].paragraphs[{p}]"
            context = _text(paragraph, "context", place)
            for q, asked in enumerate(_list(paragraph, "qas", place)):
                here = f"{place}.qas[{q}]"
                answers = []
                for answer in _list(asked, "answers", here):
                    text, start = _text(answer, "text", here), answer.get("answer_start")
                    if not isinstance(start, int) or context[start : start + len(text)] != text:
                        raise EvaluationError(
                            f"{here}: `answer_start` {start!r} is not where its text stands in the context"
                        )
                    answers.append((text, start))
                if not answers:
                    raise EvaluationError(f"{here}: `answers` is empty; every question of JSQuAD has one")
                yield {
                    "id": _text(asked, "id", here),
                    "question": _text(asked, "question", here),
                    "context": context,
                    "answers": answers,
                }


def _json(content: bytes, place: str) -> dict[str, Any]:
    try:
        record = json.loads(content)
    except ValueError as error:
        raise EvaluationError(f"{place}: is not JSON ({error})") from None
    if not isinstance(record, dict):
        raise EvaluationError(f"{place}: is not a JSON object")
    return record


def _text(record: Any, name: str, place: str) -> str:
    value = record.get(name) if isinstance(record, dict) else None
    if not isinstance(value, str):
        raise EvaluationError(f"{place}: the field `{name}` is " + _what(record, name, "a text"))
    return value


def _list(record: Any, name: str, place: str) -> list[Any]:
    value = record.get(name) if isinstance(record, dict) else None
    if not isinstance(value, list):
        raise EvaluationError(f"{place}: the field `{name}` is " + _what(record, name, "a list"))
    return value


def _what(record: Any, name: str, wanted: str) -> str:
    if not isinstance(record, dict) or name not in record:
        there = ", ".join(record) if isinstance(record, dict) else "no object"
        return f"missing; there are: {there}"
    return f"{record[name]!r}, not {wanted}"


def _label(record: dict[str, Any], task: Task, place: str) -> int | float:
    value = record.get("label")
    if task.kind == "classification":
        if value in task.labels:
            return task.labels.index(value)
        wanted = "one of " + ", ".join(task.labels)
    elif task.kind == "multiple_choice":
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(task.fields) - 1:
            return value
        wanted = f"a number from 0 to {len(task.fields) - 2}"
    else:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 5:
            return float(value)
        wanted = "a number from 0 to 5"
    raise EvaluationError(f"{place}: the field `label` is " + _what(record, "label", wanted))
