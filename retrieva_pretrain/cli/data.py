"""`retrieva data`: raw corpora to Megatron indexed datasets, and a look at them."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retrieva_pretrain.cli.arguments import Overrides

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from data_prep.build import Progress
    from data_prep.inspect import Inspection

app = typer.Typer(
    help="Prepare corpora: build, inspect, verify; train a tokenizer.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Prefix = Annotated[
    Path, typer.Argument(help="The corpus: the path of its files without .bin or .idx.", show_default=False)
]
CorpusFile = Annotated[Path, typer.Argument(help="The corpus file (YAML).", show_default=False)]


@app.command("build")
def build_command(
    corpus: CorpusFile,
    overrides: Overrides = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the corpus is written.")] = Path(
        "data"
    ),
    overwrite: Annotated[
        bool, typer.Option(help="Replace a corpus made of other inputs or options.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Turn raw files into OUTPUT/NAME.bin, .idx and a manifest. A finished corpus is left as it is.

    Example: retrieva data build recipes/corpora/llm_jp_cc.yaml --output data 'files=[/data/ja_cc/*.jsonl.gz]'
    """
    from data_prep.build import build, corpus_prefix
    from data_prep.corpus import CorpusConfig
    from retrieva_pretrain.recipe.loading import load_yaml

    config = load_yaml(CorpusConfig, corpus, overrides or [])
    with _progress_bar(config.name) as progress:
        manifest = build(config, output, progress=progress, overwrite=overwrite)
    if as_json:
        typer.echo(manifest.model_dump_json(indent=1))
        return
    counts = manifest.counts
    typer.echo(
        f"{corpus_prefix(config, output)}: {counts.documents:,} documents, {counts.tokens:,} tokens,"
        f" {counts.text_bytes:,} bytes of text; dropped: {_reasons(counts.dropped)}"
    )


@app.command("inspect")
def inspect_command(
    prefix: Prefix,
    document: Annotated[
        list[int] | None, typer.Option("--document", "-d", help="Show this document (from 0); repeatable.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what is in a corpus: counts, lengths, where it comes from, and chosen documents as text.

    Example: retrieva data inspect data/ja_cc --document 0
    """
    from dataclasses import asdict

    from data_prep.inspect import inspect

    found = inspect(prefix, document or [])
    if as_json:
        content = {**asdict(found), "manifest": found.manifest.model_dump(mode="json")}
        typer.echo(json.dumps(content, ensure_ascii=False, indent=1))
        return
    _show(found)


@app.command("verify")
def verify_command(prefix: Prefix, as_json: AsJson = False) -> None:
    """Recompute every checksum of a corpus and check its index, ids and end tokens; exit 1 where it is damaged.

    Example: retrieva data verify data/ja_cc
    """
    from dataclasses import asdict

    from data_prep.verify import verify

    report = verify(prefix)
    if as_json:
        typer.echo(json.dumps(asdict(report), ensure_ascii=False, indent=1))
    else:
        for problem in report.problems:
            typer.echo(problem, err=True)
        verdict = f"{len(report.problems)} problems" if report.problems else "whole"
        typer.echo(f"{report.prefix}: {report.documents:,} documents, {report.tokens:,} tokens: {verdict}")
    if report.problems:
        raise typer.Exit(1)


@app.command("train-tokenizer")
def train_tokenizer_command(
    corpora: Annotated[
        list[Path], typer.Argument(help="Corpus files (YAML) to learn from.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The model to write.")] = Path(
        "tokenizer.model"
    ),
    vocab_size: Annotated[int, typer.Option(min=300, help="Number of pieces.")] = 32_000,
) -> None:
    """Train a SentencePiece tokenizer with LLM-jp's special pieces on the first text of every corpus.

    Example: retrieva data train-tokenizer corpora/ja.yaml corpora/en.yaml --output my.model --vocab-size 32000
    """
    from data_prep.corpus import CorpusConfig
    from data_prep.train_tokenizer import train_tokenizer
    from retrieva_pretrain.recipe.loading import load_yaml

    tokenizer = train_tokenizer([load_yaml(CorpusConfig, path) for path in corpora], output, vocab_size)
    typer.echo(f"{tokenizer.path}: {tokenizer.vocab_size:,} pieces")


@app.command("samples")
def samples_command(
    output: Annotated[Path, typer.Argument(help="The folder to write into.", show_default=False)],
) -> None:
    """Write small raw corpora in the file formats of the five sources, to try things on.

    Example: retrieva data samples raw
    """
    from data_prep.samples.build import write_sample_corpora

    for name, folder in write_sample_corpora(output).items():
        typer.echo(f"{name}: {folder}")


def _show(found: Inspection) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    manifest, console = found.manifest, Console()
    table = Table(show_header=False, title=found.prefix, title_justify="left")
    rows: dict[str, Any] = {
        "source": f"{manifest.source}, {len(manifest.files)} files",
        "documents": f"{manifest.counts.documents:,}",
        "tokens": f"{manifest.counts.tokens:,} ({manifest.dtype})",
        "bytes per token": f"{found.bytes_per_token:.2f}",
        "tokens a document": ", ".join(f"{name} {value:,}" for name, value in found.document_tokens.items()),
        "dropped": _reasons(manifest.counts.dropped),
        "repaired": _reasons(manifest.counts.repaired),
        "tokenizer": f"{manifest.tokenizer.model}, {manifest.tokenizer.vocab_size:,} pieces",
        "end of document": f"{manifest.eod.piece} ({manifest.eod.id})" if manifest.eod else "none",
        "fingerprint": found.fingerprint,
    }
    for name, value in rows.items():
        table.add_row(name, Text(str(value)))
    console.print(table)
    if found.note:
        console.print(Text(found.note))
    for view in found.documents:
        console.rule(f"document {view.number}, {view.tokens:,} tokens")
        console.print(Text(view.text if view.text is not None else " ".join(map(str, view.ids))))


@contextmanager
def _progress_bar(name: str) -> Iterator[Callable[[Progress], None]]:
    """Give `build`'s progress a bar with its rate, on the error stream and gone when the work is done."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("{task.fields[tokens]:,} tokens"),
        TimeRemainingColumn(),
    )
    console = Console(file=sys.stderr)
    with Bar(*columns, console=console, transient=True) as shown:
        task = shown.add_task(name, total=None, tokens=0)

        def update(state: Progress) -> None:
            if state.stage == "unchanged":
                console.print(
                    f"{name}: complete already, made of the same inputs; nothing to do", markup=False
                )
            shown.update(
                task,
                completed=state.source_bytes_done,
                total=state.source_bytes or None,
                tokens=state.tokens,
            )

        yield update


def _reasons(counts: dict[str, int]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in counts.items()) or "nothing"
