"""What `retrieva data build` and `merge` show while they work, and at the end."""

from __future__ import annotations

import importlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from retrieva_pretrain.durations import format_duration

if TYPE_CHECKING:
    from data_prep.build import Progress
    from data_prep.corpus import CorpusConfig
    from data_prep.manifest import Manifest

_LINE_EVERY = 15.0  # seconds between lines where the error stream is no terminal
Update = Callable[["Progress"], None]


def build_corpora(
    arguments: Sequence[str], output: Path, workers: int | None, overwrite: bool, as_json: bool
) -> None:
    """Build each corpus, then show what was built."""
    from data_prep.build import build

    configs = corpus_configs(arguments)
    _import_early("matplotlib.figure")
    manifests = []
    for config in configs:
        with _shown(config.name) as progress:
            manifests.append(build(config, output, progress=progress, overwrite=overwrite, workers=workers))
    _finish(manifests, output, as_json)


def build_shares(
    arguments: Sequence[str], output: Path, share: tuple[int, int], workers: int | None, as_json: bool
) -> None:
    """Do one share of each corpus."""
    from dataclasses import asdict

    from data_prep.build import build_share, corpus_prefix

    number, of = share
    reports = []
    for config in corpus_configs(arguments):
        with _shown(f"{config.name} {number}/{of}") as progress:
            report = build_share(config, output, number, of, progress=progress, workers=workers)
        reports.append({"name": config.name, "share": number, "of": of, **asdict(report)})
        if not as_json:
            typer.echo(
                f"{corpus_prefix(config, output)}: share {number} of {of} is done: {report.tasks:,} of "
                f"{report.all_tasks:,} tasks, {report.documents:,} documents, {report.tokens:,} tokens"
            )
    if as_json:
        typer.echo(json.dumps(reports, ensure_ascii=False, indent=1))


def submit_corpora(
    arguments: Sequence[str], output: Path, cluster: str, array: int, only: str | None, dry_run: bool
) -> None:
    """Submit each corpus as a job array of the cluster and a merge after it."""
    from retrieva_pretrain.launch.data_array import parse_indices, submit_data_build
    from retrieva_pretrain.launch.profiles import load_profile

    profile = load_profile(cluster)
    indices = parse_indices(only, array) if only is not None else None
    for config in corpus_configs(arguments):
        submission = submit_data_build(config, output, profile, array, only=indices, dry_run=dry_run)
        typer.echo(submission.message)


def merge_corpora(arguments: Sequence[str], output: Path, as_json: bool) -> None:
    """Join the shares of each corpus, then show what was built."""
    from data_prep.build import merge_shares

    manifests = []
    for config in corpus_configs(arguments):
        with _shown(config.name) as progress:
            manifests.append(merge_shares(config, output, progress=progress))
    _finish(manifests, output, as_json)


def reasons(counts: dict[str, int]) -> str:
    """Counts by reason in a line."""
    return ", ".join(f"{reason} {count:,}" for reason, count in counts.items()) or "nothing"


def _import_early(module: str) -> None:
    """Load what the end of a build needs while its workers work; it may not be installed."""

    def load() -> None:
        with suppress(ImportError):
            importlib.import_module(module)

    threading.Thread(target=load, daemon=True).start()


def corpus_configs(arguments: Sequence[str]) -> list[CorpusConfig]:
    """Return the corpus files among the arguments, each with all the overrides."""
    from data_prep.corpus import CorpusConfig
    from retrieva_pretrain.recipe.loading import load_yaml

    files = [one for one in arguments if "=" not in one or Path(one).is_file()]
    overrides = [one for one in arguments if one not in files]
    if not files:
        raise typer.BadParameter("name a corpus file (YAML)")
    return [load_yaml(CorpusConfig, Path(file), overrides) for file in files]


def _finish(manifests: list[Manifest], output: Path, as_json: bool) -> None:
    if as_json:
        contents = [manifest.model_dump(mode="json") for manifest in manifests]
        typer.echo(json.dumps(contents[0] if len(contents) == 1 else contents, ensure_ascii=False, indent=1))
        return
    from rich.console import Console

    from data_prep.build_page import write_build_page
    from retrieva_pretrain.cli.data_table import corpora_table

    Console().print(corpora_table(manifests))
    for manifest in manifests:
        counts = manifest.counts
        typer.echo(
            f"{output / manifest.name}: {counts.documents:,} documents, {counts.tokens:,} tokens,"
            f" {counts.text_bytes:,} bytes of text; dropped: {reasons(counts.dropped)}"
        )
        for problem in manifest.malformed_records[:5]:
            typer.echo(f"  not read: {problem}")
    if written := write_build_page(output):
        typer.echo(f"written: {', '.join(str(path) for path in written)}")


@contextmanager
def _shown(name: str) -> Iterator[Update]:
    """One line of progress a corpus: a bar on a terminal, a line now and then in a log."""
    from rich.console import Console

    console = Console(file=sys.stderr)
    with _bar(name, console) if console.is_terminal else _lines(name) as update:
        yield update


@contextmanager
def _lines(name: str) -> Iterator[Update]:
    started = last = time.monotonic()

    def update(state: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if state.stage == "unchanged":
            typer.echo(f"{name}: complete already, made of the same inputs; nothing to do", err=True)
        elif state.stage in ("reading", "merging") and now - last >= _LINE_EVERY:
            last = now
            typer.echo(f"{name}: {_sentence(state, now - started)}", err=True)

    yield update


@contextmanager
def _bar(name: str, console: object) -> Iterator[Update]:
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as Bar

    assert isinstance(console, Console)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TaskProgressColumn(),
        TextColumn("{task.fields[sentence]}", markup=False),
    )
    started = time.monotonic()
    with Bar(*columns, console=console, transient=True) as shown:
        task = shown.add_task(name, total=None, sentence="")

        def update(state: Progress) -> None:
            if state.stage == "unchanged":
                console.print(
                    f"{name}: complete already, made of the same inputs; nothing to do", markup=False
                )
            shown.update(
                task,
                completed=state.source_bytes_done,
                total=state.source_bytes or None,
                sentence=_sentence(state, time.monotonic() - started),
            )

        yield update


def _sentence(state: Progress, seconds: float) -> str:
    """What is done, how fast, and how long it will take."""
    if state.stage == "checking":
        return "checking"
    if state.stage == "merging":
        return f"merging, {state.tokens:,} tokens"
    seconds = max(seconds, 1e-3)
    done = state.source_bytes_done - state.source_bytes_before
    left = state.source_bytes - state.source_bytes_done
    text = (state.text_bytes - state.text_bytes_before) / seconds
    # What earlier runs did is in the sums, so a rate of documents or tokens goes by the text of this run.
    share = text / state.text_bytes if state.text_bytes else 0.0
    parts = [
        f"{state.documents:,} documents ({state.documents * share:,.0f}/s)",
        f"{state.tokens:,} tokens ({state.tokens * share:,.0f}/s)",
        f"{text / 1e6:.1f} MB/s of text",
    ]
    if state.malformed:
        parts.append(f"{state.malformed:,} not read")
    if done > 0 and left > 0:
        parts.append(f"{format_duration(left / done * seconds)} left")
    return ", ".join(parts)
