"""All that a run's folder tells of what happened, read once: the page and the pictures are drawn from this alone.

A run may be training at this moment: nothing is locked, a line that is still being written is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from retrieva_pretrain.errors import RetrievaError
from retrieva_pretrain.json_files import read_mapping
from retrieva_pretrain.launch.attempts import Attempt, read_history
from retrieva_pretrain.outcome import read_outcome
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe

FIGURES = (
    "consumed_tokens",
    "loss",
    "masked_accuracy",
    "learning_rate",
    "seq_length",
    "tokens_per_second",
    "tflops_per_gpu",
    "mfu",
    "grad_norm",
    "step_seconds",
    "stage",
)
_KILLED = "killed: it left no record of its end, as after a time limit, a preemption or a failed node"
_BEFORE_ALL = datetime.min.replace(tzinfo=timezone.utc)
_AFTER_ALL = datetime.max.replace(tzinfo=timezone.utc)


@dataclass(frozen=True)
class Evaluation:
    """Held-out text of one corpus after `step` steps."""

    step: int
    tokens: int
    corpus: str
    seq_length: int
    loss: float
    masked_accuracy: float
    scored_tokens: int


@dataclass(frozen=True)
class Event:
    """A step that was skipped, or a start of training after the first."""

    kind: str
    """`skipped` or `restart`."""

    step: int
    tokens: int
    reason: str


@dataclass
class RunHistory:
    """One run."""

    name: str
    folder: Path
    recipe: Recipe | None
    """None where the folder has none that this version reads."""

    steps: npt.NDArray[np.int64]
    """Finished steps, ascending; each counts as it was taken last."""

    figures: dict[str, npt.NDArray[np.float64]]
    """Of every step, by the names of `FIGURES`; NaN where a figure was not finite or is not there."""

    evaluations: list[Evaluation] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    world_size: int | None = None
    platform: str | None = None
    seconds_taken_again: float = 0.0
    """In steps that were lost to a kill and taken a second time."""

    lines_left_out: int = 0
    """Torn by a kill or by reading while it was written."""

    outcome: dict[str, Any] | None = None
    identity: dict[str, Any] | None = None

    @property
    def last_step(self) -> int:
        """Steps done."""
        return int(self.steps[-1]) if len(self.steps) else 0

    @property
    def tokens(self) -> int:
        """Positions consumed."""
        return int(self.figures["consumed_tokens"][-1]) if len(self.steps) else 0

    def tokens_at(self, step: int) -> int:
        """Return the positions consumed after a step, or after the last recorded one before it."""
        place = int(np.searchsorted(self.steps, step, side="right"))
        return int(self.figures["consumed_tokens"][place - 1]) if place else 0


def read_run(folder: Path) -> RunHistory:
    """Read a run.

    Raises:
        RetrievaError: the run's files cannot be read.
    """
    records = _Records()
    for record in _lines(folder / "metrics.jsonl", records):
        records.take(record)
    order = sorted(records.train)
    table = np.array([records.train[step] for step in order], dtype=np.float64).reshape(-1, len(FIGURES))
    recipe = None
    if (folder / "recipe.yaml").is_file():
        try:
            recipe = load_yaml(Recipe, folder / "recipe.yaml")
        except RetrievaError:  # of another version: the curves are worth seeing without it
            recipe = None
    run = RunHistory(
        name=recipe.name if recipe is not None else folder.resolve().name,
        folder=folder,
        recipe=recipe,
        steps=np.array(order, dtype=np.int64),
        figures={name: table[:, column] for column, name in enumerate(FIGURES)},
        world_size=records.world_size,
        platform=records.platform,
        seconds_taken_again=records.seconds_taken_again,
        lines_left_out=records.left_out,
        outcome=read_outcome(folder),
        identity=read_mapping(folder / "identity.json"),
    )
    run.evaluations = [_evaluation(run, record) for record in records.evaluations.values()]
    run.evaluations.sort(key=lambda e: (e.step, e.seq_length))
    skips = [Event("skipped", s, run.tokens_at(s), why) for s, why in sorted(records.skipped.items())]
    run.events = [*_restarts(run, records.starts), *skips]
    return run


class _Records:
    """The lines of `metrics.jsonl` as they are read."""

    def __init__(self) -> None:
        self.train: dict[int, list[float]] = {}
        self.evaluations: dict[tuple[int, str, int], dict[str, Any]] = {}
        self.skipped: dict[int, str] = {}
        self.starts: list[dict[str, Any]] = []
        self.world_size: int | None = None
        self.platform: str | None = None
        self.seconds_taken_again = 0.0
        self.left_out = 0
        self._newest = 0

    def take(self, record: dict[str, Any]) -> None:
        step, kind = int(record["step"]), record["kind"]
        if kind == "start":
            self.starts.append(record)
            self.world_size, self.platform = record.get("world_size"), record.get("platform")
            self._forget_after(step)
        elif kind == "train":
            self.train[step] = [_number(record.get(name)) for name in FIGURES]
            self._newest = max(self._newest, step)
            self.skipped.pop(step, None)
            if record.get("skipped"):
                self.skipped[step] = str(record["skipped"])
        elif kind == "evaluation":
            self.evaluations[step, str(record.get("corpus")), int(record.get("seq_length") or 0)] = record

    def _forget_after(self, step: int) -> None:
        """Leave out what was lost: a start goes on from its checkpoint, whatever was recorded after that."""
        seconds = FIGURES.index("step_seconds")
        for lost in range(step + 1, self._newest + 1):
            taken = self.train.pop(lost, None)
            if taken is not None and math.isfinite(taken[seconds]):
                self.seconds_taken_again += taken[seconds]
            self.skipped.pop(lost, None)
        self._newest = min(self._newest, step)
        self.evaluations = {key: record for key, record in self.evaluations.items() if key[0] <= step}


def _lines(path: Path, records: _Records) -> Iterator[dict[str, Any]]:
    """Yield the whole records of a file that may be hundreds of megabytes long."""
    try:
        stream = path.open("rb")
    except FileNotFoundError:
        return
    except OSError as error:
        raise RetrievaError(f"{path}: cannot be read: {error.strerror}") from None
    with stream:
        for line in stream:
            try:
                record = orjson.loads(line)
                if isinstance(record["kind"], str) and isinstance(record["step"], int):
                    yield record
            except (ValueError, KeyError, TypeError):
                records.left_out += bool(line.strip())


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


def _evaluation(run: RunHistory, record: dict[str, Any]) -> Evaluation:
    return Evaluation(
        step=record["step"],
        tokens=run.tokens_at(record["step"]),
        corpus=str(record.get("corpus")),
        seq_length=int(record.get("seq_length") or 0),
        loss=_number(record.get("loss")),
        masked_accuracy=_number(record.get("masked_accuracy")),
        scored_tokens=int(record.get("scored_tokens") or 0),
    )


@dataclass(frozen=True)
class _Start:
    """A start of training, and how it ended where something has recorded that: its supervisor, or the next start."""

    time: datetime
    step: int
    end: str | None = None
    previous: str | None = None


def _restarts(run: RunHistory, records: list[dict[str, Any]]) -> list[Event]:
    """Return every start after the first, with the reason for which the one before it ended.

    Supervisors record starts and ends, also of what failed before its first step; training records that it was
    started, and what its predecessor left in exit.json. Those by hand and those by a supervisor may take turns.
    """
    attempts = read_history(run.folder / "attempts.jsonl").attempts
    starts = [
        _Start(
            _moment(attempt.start.time),
            attempt.start.step,
            end=f"{attempt.end.outcome}: {attempt.end.reason}" if attempt.end is not None else None,
        )
        for attempt in attempts
    ]
    unseen = list(attempts)
    for record in records:
        exit_before = record.get("previous_exit") or {}
        previous = f"{exit_before.get('reason')}: {exit_before.get('message')}" if exit_before else None
        start = _Start(_moment(record.get("time")), record["step"], previous=previous)
        own = next((attempt for attempt in unseen if _holds(attempt, start.time)), None)
        if own is not None:  # an attempt trains once
            unseen.remove(own)
        elif start.time != _BEFORE_ALL or not attempts:
            starts.append(start)
    starts.sort(key=lambda start: start.time)
    return [
        Event("restart", start.step, run.tokens_at(start.step), start.previous or before.end or _KILLED)
        for before, start in pairwise(starts)
    ]


def _holds(attempt: Attempt, time: datetime) -> bool:
    end = _moment(attempt.end.time) if attempt.end is not None else _AFTER_ALL
    return _moment(attempt.start.time) <= time <= end


def _moment(time: object) -> datetime:
    try:
        moment = datetime.fromisoformat(str(time))
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=timezone.utc)
    except ValueError:
        return _BEFORE_ALL
