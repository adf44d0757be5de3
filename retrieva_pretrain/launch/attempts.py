"""`attempts.jsonl`: every time that training of a run was started, and how that ended.

The supervisor of a job writes a line when it starts training and one when training has ended. An attempt
without an end was killed together with its supervisor: by a node's failure, by a preemption, at a time limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from retrieva_pretrain.errors import LaunchError
from retrieva_pretrain.launch.records import JobRecord, numbered_lines
from retrieva_pretrain.launch.schedulers.local import elsewhere

Outcome = Literal["done", "left", "interrupted", "killed", "failed", "stopped", "cancelled"]
"""How an attempt ended: `done`, the recipe is trained; `left`, saved and left before its time was up;
`interrupted`, the same because it was told to from outside; `killed`, without a word; `failed`, with what another
try may mend; `stopped`, with what it cannot; `cancelled`, by `retrieva cancel`."""


class AttemptStart(BaseModel):
    """Training was started."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    event: Literal["start"] = "start"
    time: str
    number: int
    """From 1, over all jobs of the run."""
    submission: int
    job_id: str
    hosts: list[str]
    processes: int
    step: int
    """The newest checkpoint's."""


class AttemptEnd(BaseModel):
    """Training has ended."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    event: Literal["end"] = "end"
    time: str
    number: int
    outcome: Outcome
    reason: str
    step: int
    """The newest checkpoint's."""
    rank: int | None = None
    """The rank that failed first."""
    held: bool = False
    """Whether it never began, because another training held the run's lock."""


class Cancelled(BaseModel):
    """Somebody has called `retrieva cancel`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    event: Literal["cancel"] = "cancel"
    time: str
    submission: int
    """All jobs up to this submission's."""


class Attempt(BaseModel):
    """A start and its end."""

    start: AttemptStart
    end: AttemptEnd | None = None


class History(BaseModel):
    """What `attempts.jsonl` holds."""

    attempts: list[Attempt] = []
    cancelled_submission: int = 0
    """Jobs of submissions up to this one are to end."""

    def of(self, submission: int) -> list[Attempt]:
        """Return the attempts of one submission and its follow-up jobs."""
        return [attempt for attempt in self.attempts if attempt.start.submission == submission]

    @property
    def next_number(self) -> int:
        """The number of the next attempt."""
        return 1 + max((attempt.start.number for attempt in self.attempts), default=0)


def read_history(path: Path) -> History:
    """Return what a run's `attempts.jsonl` holds; a torn line is left out, and where there is no file, all.

    Raises:
        LaunchError: the file cannot be read, or a whole line is none of ours.
    """
    found: dict[int, Attempt] = {}
    cancelled = 0
    for number, content in numbered_lines(path):
        try:
            event = content.get("event")
            if event == "start":
                start = AttemptStart.model_validate(content)
                found[start.number] = Attempt(start=start)
            elif event == "end":
                end = AttemptEnd.model_validate(content)
                if end.number in found:
                    found[end.number] = Attempt(start=found[end.number].start, end=end)
            elif event == "cancel":
                cancelled = max(cancelled, Cancelled.model_validate(content).submission)
        except (AttributeError, ValidationError):
            raise LaunchError(f"{path}:{number}: is no record of an attempt; remove the line") from None
    return History(attempts=list(found.values()), cancelled_submission=cancelled)


def failures_in_a_row(attempts: Sequence[Attempt]) -> int:
    """Return how many attempts have failed since the last one that brought the run to a new checkpoint.

    One that left before its time was up without a new checkpoint counts as well: it would do so for ever. One that
    found the run held does not: what a lost node has locked is freed after a while.
    """
    count = 0
    for attempt in attempts:
        if attempt.end is None or attempt.end.held:
            continue
        if attempt.end.step > attempt.start.step:
            count = 0
        if attempt.end.outcome == "failed" or (
            attempt.end.outcome == "left" and attempt.end.step <= attempt.start.step
        ):
            count += 1
    return count


def held_in_a_row(attempts: Sequence[Attempt]) -> int:
    """Return how many of the last attempts, one after the other, found the run held by another training."""
    return sum(1 for _ in takewhile(lambda a: a.end is not None and a.end.held, reversed(attempts)))


def perhaps_active(records: Sequence[JobRecord], history: History) -> list[JobRecord]:
    """Return the jobs that must be asked about: all but processes of other machines that are known to be over.

    Only those machines can be asked about them, and a run may have been on many. A later launch, which was let pass,
    has found those before it over; so has who reads of an end after which a supervisor starts nothing.
    """
    newest = max((record.submission for record in records), default=0)
    last = {a.start.job_id: a.end.outcome if a.end else None for a in history.attempts}
    return [
        record
        for record in records
        if record.scheduler != "local"
        or elsewhere(record.job_id) is None
        or (record.submission == newest and last.get(record.job_id) in (None, "failed"))
    ]


def preemptions(attempts: Sequence[Attempt]) -> int:
    """Return how many attempts were ended from outside."""
    return sum(
        attempt.end is not None and attempt.end.outcome in ("killed", "interrupted") for attempt in attempts
    )
