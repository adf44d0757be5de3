"""`retrieva data`: raw corpora to indexed datasets, and looking at what came out."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Build, inspect and verify corpora; train a tokenizer.", no_args_is_help=True)

Prefix = Annotated[
    Path, typer.Argument(help="The corpus: DIR/NAME, without .bin or .idx.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("build")
def build_command(
    corpus: Annotated[Path, typer.Argument(help="The corpus, a YAML file.", show_default=False)],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="key.path=value: changes to single fields of the corpus.", metavar="[KEY=VALUE]..."
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", help="The folder for NAME.bin, NAME.idx and the manifest.")
    ] = Path("data"),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a corpus of other inputs under the same name.")
    ] = False,
) -> None:
    """Tokenize raw files into a Megatron indexed dataset with a manifest.

    A complete corpus of the same inputs and options is left as it is.

    Example: retrieva data build recipes/corpora/llm_jp_cc.yaml --output data 'files=[/data/*.jsonl.gz]'
    """
    from data_prep.build import build
    from data_prep.corpus import CorpusConfig
    from retrieva_pretrain.cli.data_view import BuildProgress, print_built
    from retrieva_pretrain.recipe.loading import load_yaml

    config = load_yaml(CorpusConfig, corpus, overrides or [])
    with BuildProgress(config.name) as progress:
        manifest = build(config, output, progress=progress, overwrite=overwrite)
    print_built(output / config.name, manifest, unchanged=progress.unchanged)


@app.command("inspect")
def inspect_command(
    prefix: Prefix,
    document: Annotated[
        list[int] | None,
        typer.Option("--document", help="Show this document as text; may be repeated; -1 is the last."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a corpus holds: counts, ratios, what was dropped and why, single documents.

    Example: retrieva data inspect data/ja_cc --document 0 --document -1
    """
    from data_prep.inspect import inspect
    from retrieva_pretrain.cli.data_view import bare_prefix, print_inspection

    found = inspect(bare_prefix(prefix), document or ())
    if as_json:
        content = {**asdict(found), "manifest": found.manifest.model_dump(mode="json")}
        typer.echo(json.dumps(content, ensure_ascii=False, indent=1))
    else:
        print_inspection(found)


@app.command("verify")
def verify_command(prefix: Prefix, as_json: AsJson = False) -> None:
    """Check a corpus against its manifest: checksums, index, token range, document ends.

    Exit code 1 where something is wrong.

    Example: retrieva data verify data/ja_cc
    """
    from data_prep.verify import verify
    from retrieva_pretrain.cli.data_view import VerifyProgress, bare_prefix, print_verified

    with VerifyProgress() as progress:
        report = verify(bare_prefix(prefix), progress=progress)
    if as_json:
        typer.echo(json.dumps({**asdict(report), "ok": report.ok}, ensure_ascii=False, indent=1))
    else:
        print_verified(report)
    if not report.ok:
        raise typer.Exit(1)


@app.command("train-tokenizer")
def train_tokenizer_command(
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Corpus YAMLs (their documents are read) and text files or patterns.",
            metavar="INPUT...",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option("--output", help="The model file to write.", show_default=False)],
    vocab_size: Annotated[int, typer.Option("--vocab-size", help="Number of pieces.", show_default=False)],
    character_coverage: Annotated[
        float | None,
        typer.Option(
            "--character-coverage",
            help="Share of running characters with pieces, 0.98 to 1.",
            show_default="fitting",
        ),
    ] = None,
    max_bytes: Annotated[
        int | None,
        typer.Option(
            "--max-bytes", min=1, help="Read at most this much text of each input.", show_default="all"
        ),
    ] = None,
) -> None:
    """Train a SentencePiece tokenizer with LLM-jp's special pieces.

    Example: retrieva data train-tokenizer recipes/corpora/llm_jp_cc.yaml --output my.model --vocab-size 32000
    """
    from data_prep.corpus import CorpusConfig
    from data_prep.train_tokenizer import train_tokenizer
    from retrieva_pretrain.cli.data_view import waiting
    from retrieva_pretrain.recipe.loading import load_yaml

    texts = [
        load_yaml(CorpusConfig, Path(item)) if Path(item).suffix in (".yaml", ".yml") else Path(item)
        for item in inputs
    ]
    with waiting("training SentencePiece"):
        tokenizer = train_tokenizer(
            texts, output, vocab_size, character_coverage=character_coverage, max_bytes=max_bytes
        )
    typer.echo(f"{tokenizer.path}: {tokenizer.vocab_size:,} pieces, sha256 {tokenizer.sha256}")


@app.command("samples")
def samples_command(
    folder: Annotated[Path, typer.Argument(help="The folder to write to.", show_default=False)],
) -> None:
    """Write small raw corpora in the five true file formats, to try things out on.

    Example: retrieva data samples raw
    """
    from data_prep.samples.build import write_sample_corpora
    from retrieva_pretrain.cli.data_view import waiting

    with waiting("writing sample corpora"):
        folders = write_sample_corpora(folder)
    for written in folders.values():
        for path in sorted(path for path in written.rglob("*") if path.is_file()):
            typer.echo(f"{path}  {path.stat().st_size:,} bytes")
