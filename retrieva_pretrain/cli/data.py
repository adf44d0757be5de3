"""`retrieva data`: raw corpora to Megatron indexed datasets, and a look at them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retrieva_pretrain.cli.arguments import Overrides, RecipeFile
from retrieva_pretrain.cli.data_build import reasons

if TYPE_CHECKING:
    from rich.console import Console

    from data_prep.inspect import Inspection

_MOST_FILES = 20

app = typer.Typer(
    help="Prepare corpora: build, inspect, verify, index; train a tokenizer.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _prefix(text: str) -> Path:
    """Shells complete to one of the files: its ending is taken off."""
    for ending in (".bin", ".idx", ".manifest.json"):
        if text.endswith(ending) and Path(text).is_file():
            return Path(text[: -len(ending)])
    return Path(text)


Prefix = Annotated[
    Path,
    typer.Argument(
        help="The corpus: the path that its .bin and .idx have in common.", parser=_prefix, metavar="PREFIX"
    ),
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Where the corpora are written.")]
Workers = Annotated[
    int | None,
    typer.Option(help="CPUs to use. Default: all that this process may use.", min=1, show_default=False),
]


@app.command("build")
def build_command(
    corpora: Annotated[
        list[str],
        typer.Argument(
            help="Corpus files (YAML), and key=value to override what they say.",
            metavar="CORPUS.yaml... [KEY=VALUE]...",
            show_default=False,
        ),
    ],
    output: Output = Path("data"),
    workers: Workers = None,
    shard: Annotated[
        str | None,
        typer.Option(
            help="Do share I of N alone, such as 2/8; `retrieva data merge` joins them.", metavar="I/N"
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option(help="Replace a corpus, or an unfinished build, made of other inputs or options.")
    ] = False,
    cluster: Annotated[
        str | None,
        typer.Option(
            help="Submit the build as jobs of this cluster: a bundled profile's name, or a YAML.",
            show_default=False,
        ),
    ] = None,
    array: Annotated[
        int | None,
        typer.Option(help="With --cluster: the number of tasks of the job array.", min=1, show_default=False),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(help="With --array: submit these tasks again alone, such as 3,7.", show_default=False),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --cluster: show scripts and commands, submit nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Turn raw files into OUTPUT/NAME.bin, .idx and a manifest; run again, it goes on where it was stopped.

    Example: retrieva data build recipes/corpora/llm_jp_cc.yaml --output data 'files=[/data/ja_cc/*.jsonl.gz]'
    """
    from retrieva_pretrain.cli.data_build import build_corpora, build_shares, submit_corpora

    if (cluster is None) != (array is None) or (cluster is None and (only or dry_run)):
        raise typer.BadParameter("--cluster and --array go together; --only and --dry-run go with them.")
    if cluster is not None and array is not None:
        if shard is not None or overwrite or workers is not None:
            raise typer.BadParameter(
                "with --cluster, each task of the array gets its --shard and --workers itself."
            )
        submit_corpora(corpora, output, cluster, array, only, dry_run)
        return
    if shard is not None and overwrite:
        raise typer.BadParameter("--shard works beside other shares: it cannot --overwrite what they do.")
    if shard is None:
        build_corpora(corpora, output, workers, overwrite, as_json)
    else:
        build_shares(corpora, output, _share(shard), workers, as_json)


@app.command("merge")
def merge_command(
    corpora: Annotated[
        list[str],
        typer.Argument(
            help="The corpus files (YAML) and key=value that the shares were built with.",
            metavar="CORPUS.yaml... [KEY=VALUE]...",
            show_default=False,
        ),
    ],
    output: Output = Path("data"),
    as_json: AsJson = False,
) -> None:
    """Join the shares that `retrieva data build --shard` has built; exit 1 naming what is missing.

    Example: retrieva data merge recipes/corpora/llm_jp_cc.yaml --output data
    """
    from retrieva_pretrain.cli.data_build import merge_corpora

    merge_corpora(corpora, output, as_json)


def _share(text: str) -> tuple[int, int]:
    number, slash, of = text.partition("/")
    if not (slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise typer.BadParameter(f"--shard {text}: give I/N with I from 1 to N, such as 2/8.")
    return int(number), int(of)


@app.command("inspect")
def inspect_command(
    prefix: Prefix,
    document: Annotated[
        list[int] | None,
        typer.Option("--document", "-d", help="Show this document (from 0; -1 is the last); repeatable."),
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
def verify_command(
    prefix: Prefix,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="Sizes, the whole index and a sample of the tokens: seconds, not minutes."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Recompute every checksum of a corpus and check its index, ids and end tokens; exit 1 where it is damaged.

    Example: retrieva data verify data/ja_cc
    """
    from dataclasses import asdict

    from data_prep.verify import verify

    report = verify(prefix, quick=quick)
    if as_json:
        typer.echo(json.dumps(asdict(report), ensure_ascii=False, indent=1))
    else:
        for problem in report.problems:
            typer.echo(problem, err=True)
        good = "nothing wrong at a quick look" if quick else "whole"
        verdict = f"{len(report.problems)} problems" if report.problems else good
        typer.echo(f"{report.prefix}: {report.documents:,} documents, {report.tokens:,} tokens: {verdict}")
    if report.problems:
        raise typer.Exit(1)


@app.command("index")
def index_command(
    recipe: RecipeFile,
    overrides: Overrides = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1, help="Epochs of each corpus, at most. Default: all that the run reads.", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Work out the order of a recipe's large corpora before the run, which then starts at once.

    A run makes what is missing by itself, at its start; here no GPU waits for it. Run again, it does nothing.

    Example: retrieva data index recipes/retrievabert-1.3b.yaml data.index_dir=/scratch/indexes
    """
    from retrieva_pretrain.cli.data_index import index_corpora

    index_corpora(recipe, overrides or [], epochs, as_json)


@app.command("train-tokenizer")
def train_tokenizer_command(
    corpora: Annotated[
        list[str],
        typer.Argument(
            help="Corpus files (YAML) to learn from, and key=value to override what they say.",
            metavar="CORPUS.yaml... [KEY=VALUE]...",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The model to write.")] = Path(
        "tokenizer.model"
    ),
    vocab_size: Annotated[int, typer.Option(min=300, help="Number of pieces.")] = 32_000,
) -> None:
    """Train a SentencePiece tokenizer with LLM-jp's special pieces on the first text of every corpus.

    Example: retrieva data train-tokenizer corpora/ja.yaml corpora/en.yaml --output my.model --vocab-size 32000
    """
    from data_prep.train_tokenizer import train_tokenizer
    from retrieva_pretrain.cli.data_build import corpus_configs

    tokenizer = train_tokenizer(corpus_configs(corpora), output, vocab_size)
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
        "dropped": reasons(manifest.counts.dropped),
        "repaired": reasons(manifest.counts.repaired),
        "not read": reasons(manifest.counts.malformed),
        **{f"contaminated, {task}": f"{count:,}" for task, count in manifest.counts.contaminated.items()},
        **{kind: reasons(counts) for kind, counts in manifest.counts.labels.items()},
        "tokenizer": f"{manifest.tokenizer.model}, {manifest.tokenizer.vocab_size:,} pieces",
        **({"start of document": f"{manifest.bos.piece} ({manifest.bos.id})"} if manifest.bos else {}),
        "end of document": f"{manifest.eod.piece} ({manifest.eod.id})" if manifest.eod else "none",
        "fingerprint": found.fingerprint,
    }
    for name, value in rows.items():
        table.add_row(name, Text(str(value)))
    console.print(table)
    _show_lengths(found, console)
    _show_files(found, console)
    if found.note:
        console.print(Text(found.note))
    for view in found.documents:
        console.rule(f"document {view.number}, {view.tokens:,} tokens")
        console.print(Text(view.text if view.text is not None else " ".join(map(str, view.ids))))


def _show_lengths(found: Inspection, console: Console) -> None:
    from rich.table import Table

    table = Table("tokens, up to", "documents", "", title="lengths", title_justify="left", box=None)
    most = max((count for _, count in found.length_histogram), default=1)
    for bound, count in found.length_histogram:
        table.add_row(f"{bound:,}", f"{count:,}", "\u2588" * round(30 * count / most))
    console.print(table)


def _show_files(found: Inspection, console: Console) -> None:
    from rich.table import Table

    files = found.manifest.files
    if len(files) < 2:
        return
    table = Table("file", "documents", "tokens", "share", title="files", title_justify="left", box=None)
    for file in sorted(files, key=lambda file: -file.tokens)[:_MOST_FILES]:
        share = file.tokens / max(1, found.manifest.counts.tokens)
        table.add_row(file.path, f"{file.documents:,}", f"{file.tokens:,}", f"{share:.1%}")
    console.print(table)
    if len(files) > _MOST_FILES:
        console.print(f"and {len(files) - _MOST_FILES:,} more files")
