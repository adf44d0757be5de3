"""How `retrieva data` shows its progress and results."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Column, Table

from data_prep.build import Progress
from data_prep.inspect import Inspection
from data_prep.manifest import Manifest
from data_prep.verify import VerifyReport

_QUIET_SECONDS = 2.0
_LOG_SECONDS = 30.0
_SUFFIXES = (".bin", ".idx", ".manifest.json")


def bare_prefix(prefix: Path) -> Path:
    """The prefix of a corpus, also where one of its files was named."""
    for suffix in _SUFFIXES:
        if prefix.name.endswith(suffix):
            return prefix.with_name(prefix.name.removesuffix(suffix))
    return prefix


class _Line:
    """One line on stderr that is rewritten on a terminal, and printed now and then into a log.

    Work under two seconds shows nothing.
    """

    def __init__(self) -> None:
        self.started = time.monotonic()
        self._console = Console(file=sys.stderr, highlight=False)
        self._status: Status | None = None
        self._logged = self.started

    def show(self, text: str) -> None:
        now = time.monotonic()
        if now - self.started < _QUIET_SECONDS:
            return
        if not self._console.is_terminal:
            if now - self._logged >= _LOG_SECONDS:
                self._logged = now
                self._console.print(text, markup=False, soft_wrap=True)
        elif self._status is None:
            self._status = self._console.status(text)
            self._status.start()
        else:
            self._status.update(text)

    def close(self) -> None:
        if self._status is not None:
            self._status.stop()


class BuildProgress:
    """Called by `build`: documents, tokens, rate, and the time left by the bytes of the files done."""

    def __init__(self, name: str) -> None:
        self.unchanged = False
        self._name = name
        self._line = _Line()

    def __call__(self, progress: Progress) -> None:
        """Show where the build stands."""
        self.unchanged = progress.stage == "unchanged"
        if progress.stage == "checking":
            self._line.show(f"{self._name}: comparing with the corpus that is there")
        elif progress.stage == "finishing":
            self._line.show(f"{self._name}: writing the index")
        elif progress.stage == "reading":
            self._line.show(self._describe(progress))

    def _describe(self, progress: Progress) -> str:
        seconds = time.monotonic() - self._line.started
        left = ""
        if progress.source_bytes_done:
            rest = progress.source_bytes - progress.source_bytes_done
            left = f", {_duration(seconds * rest / progress.source_bytes_done)} left"
        return (
            f"{self._name}: file {min(progress.files_done + 1, progress.files)} of {progress.files}, "
            f"{progress.documents:,} documents, {progress.tokens:,} tokens, "
            f"{progress.text_bytes / seconds / 1e6:.1f} MB/s{left}"
        )

    def __enter__(self) -> BuildProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self._line.close()


class VerifyProgress:
    """Called by `verify` with the name of each check."""

    def __init__(self) -> None:
        self._line = _Line()

    def __call__(self, check: str) -> None:
        """Show which check runs."""
        self._line.show(check)

    def __enter__(self) -> VerifyProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self._line.close()


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """A spinner for work that cannot tell how far it is."""
    with Console(file=sys.stderr).status(what):
        yield


def print_built(prefix: Path, manifest: Manifest, *, unchanged: bool) -> None:
    """One line of what the corpus holds, and of what was dropped."""
    counts = manifest.counts
    done = "is complete already, nothing to do" if unchanged else "built"
    console = Console(highlight=False)
    console.print(
        f"{prefix} {done}: {counts.documents:,} documents, {counts.tokens:,} tokens, "
        f"{counts.text_bytes:,} bytes of text",
        markup=False,
        soft_wrap=True,
    )
    for what, reasons in (("dropped", counts.dropped), ("repaired", counts.repaired)):
        if reasons:
            console.print(f"{what}: {_reasons(reasons)}", markup=False, soft_wrap=True)


def print_inspection(found: Inspection) -> None:
    """The numbers as a table, then the documents asked for."""
    manifest, counts = found.manifest, found.manifest.counts
    console = Console(highlight=False)
    # Folded: a fingerprint cut short could not be copied.
    table = Table("", Column(escape(found.prefix), overflow="fold"))
    eod = f"{manifest.eod.piece} ({manifest.eod.id})" if manifest.eod else "none"
    tokenizer = manifest.tokenizer
    rows = {
        "source": f"{manifest.source}, {len(manifest.files)} files, "
        f"{sum(file.bytes for file in manifest.files):,} bytes",
        "documents": f"{counts.documents:,}",
        "tokens": f"{counts.tokens:,} ({manifest.dtype})",
        "text": f"{counts.text_bytes:,} bytes, {found.bytes_per_token:.2f} a token",
        "tokens of a document": ", ".join(f"{name} {n:,}" for name, n in found.document_tokens.items()),
        "dropped": _reasons(counts.dropped) or "nothing",
        "repaired": _reasons(counts.repaired) or "nothing",
        "end of document": eod,
        "tokenizer": f"{tokenizer.model} ({tokenizer.vocab_size:,} pieces, "
        f"sentencepiece {tokenizer.sentencepiece_version})",
        "fingerprint": found.fingerprint,
    }
    for name, value in rows.items():
        table.add_row(name, escape(value))
    console.print(table)
    for document in found.documents:
        console.rule(f"document {document.number}, {document.tokens:,} tokens")
        shown = document.text if document.text is not None else " ".join(map(str, document.ids))
        console.print(shown, markup=False, soft_wrap=True)
    if found.note:
        console.print(found.note, markup=False, soft_wrap=True)


def print_verified(report: VerifyReport) -> None:
    """That the corpus is good, or everything that is wrong with it."""
    console = Console(highlight=False)
    if report.ok:
        message = f"{report.prefix} is good: {report.documents:,} documents, {report.tokens:,} tokens"
        console.print(message, markup=False, soft_wrap=True)
        return
    errors = Console(file=sys.stderr, highlight=False)
    for problem in report.problems:
        errors.print(f"{report.prefix}: {problem}", markup=False, soft_wrap=True)
    errors.print("Build the corpus again with --overwrite, or copy it again.", markup=False)


def _reasons(counts: dict[str, int]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in counts.items())


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
