"""Reading the logs of a run, while it is written or afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from retrieva_pretrain.errors import LaunchError
from retrieva_pretrain.launch.attempts import read_history
from retrieva_pretrain.launch.outcome import failure_report
from retrieva_pretrain.launch.rank_end import rank_log
from retrieva_pretrain.launch.run_files import RunFiles
from retrieva_pretrain.launch.schedulers.base import ASK_SECONDS
from retrieva_pretrain.launch.tails import read_tail

_TAIL_BYTES = 2**18
_LOOK_SECONDS = 0.5


def last_words(run: RunFiles, *, rank: int = 0, attempt: int | None = None, lines: int = 20) -> str:
    """Return the end of a rank's log; of an attempt that failed, first what the first failing rank has said.

    Raises:
        LaunchError: there is no such log.
    """
    number = attempt or _newest_attempt(run)
    if number is None:
        logs = job_logs(run)
        if not logs:
            raise LaunchError(f"{run.logs}: there are no logs yet; see `retrieva status {run.run}`")
        return f"{logs[-1]}:\n" + "".join(tail(logs[-1], lines))
    folder = run.attempt_logs(number)
    path = rank_log(folder, rank)
    attempts = read_history(run.attempts).attempts
    first = next((a.end.rank for a in attempts if a.start.number == number and a.end), None)
    parts = [report + "\n"] if (report := failure_report(run, number, first)) else []
    if not path.exists():
        # The ranks have said nothing: what started them has.
        others = [p for p in [*sorted(folder.glob("node_*.log")), folder / "start.log"] if _size(p)]
        known = sorted(p.name for p in folder.glob("rank_*.log"))
        if known:
            raise LaunchError(f"{path}: there is no such log; attempt {number} has {', '.join(known[:20])}")
        others += job_logs(run)[-1:]
        parts += [f"{p}:\n" + "".join(tail(p, lines)) for p in others]
    else:
        parts.append(f"{path}:\n" + "".join(tail(path, lines)))
    return "\n".join(parts)


def follow(
    run: RunFiles,
    *,
    rank: int = 0,
    lines: int = 20,
    goes_on: Callable[[], bool],
    ask_seconds: float = ASK_SECONDS,
) -> Iterator[str]:
    """Yield what is written to the log of the jobs and of a rank, through all attempts, until `goes_on` says no.

    It is asked at first, and then where nothing was written, at most every `ask_seconds`: schedulers serve many.

    Raises:
        LaunchError: of `goes_on`, at first; where a scheduler does not answer later, its answer before counts.
    """
    seen: dict[Path, int] = {}
    for path in _followed(run, rank):
        seen[path] = _size(path)
    newest = _followed(run, rank)
    if newest:
        yield from tail(newest[-1], lines)
    asked, quiet, last = None, True, False
    while True:
        if asked is None or (quiet and time.monotonic() - asked >= ask_seconds):
            try:
                last = not goes_on()
            except LaunchError:
                if asked is None:
                    raise
            asked = time.monotonic()
        quiet = True
        for path in _followed(run, rank):
            before, size = seen.get(path, 0), _size(path)
            if size > before:
                with path.open("rb") as stream:
                    stream.seek(before)
                    text = stream.read(size - before)
                seen[path] = size
                quiet = False
                yield text.decode("utf-8", errors="replace")
        if last:
            return
        time.sleep(_LOOK_SECONDS)


def job_logs(run: RunFiles) -> list[Path]:
    """Return the logs of a run's jobs, the one written last at the end."""
    return sorted(run.logs.glob("[0-9]*-train*.log"), key=lambda path: path.stat().st_mtime)


def tail(path: Path, lines: int) -> list[str]:
    """Return the last lines of a file."""
    return read_tail(path, _TAIL_BYTES).splitlines(keepends=True)[-lines:] if lines > 0 else []


def _followed(run: RunFiles, rank: int) -> list[Path]:
    newest = _newest_attempt(run)
    ranks = [rank_log(run.attempt_logs(newest), rank)] if newest is not None else []
    return [*job_logs(run)[-1:], *(path for path in ranks if path.exists())]


def _newest_attempt(run: RunFiles) -> int | None:
    attempts = read_history(run.attempts).attempts
    return attempts[-1].start.number if attempts else None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
