"""`retrieva export`, `retrieva import` and `retrieva fill-mask`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from retrieva_pretrain.cli.arguments import TokenizerFile


class WeightType(str, Enum):
    """What `--dtype` takes."""

    bf16 = "bf16"
    fp32 = "fp32"


def export(
    run: Annotated[Path, typer.Argument(help="The run's folder, runs/NAME.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="The directory to make.", show_default=False)],
    step: Annotated[
        int | None,
        typer.Option(help="The step of the checkpoint; the newest by default.", show_default=False),
    ] = None,
    tokenizer: TokenizerFile = None,
    scores: Annotated[
        Path | None,
        typer.Option(
            help="Markdown with scores on downstream tasks, for the model card.", show_default=False
        ),
    ] = None,
    licence: Annotated[
        str, typer.Option("--license", help="Licence of the weights, for the model card.")
    ] = "apache-2.0",
    language: Annotated[
        str, typer.Option("--language", help="Languages of the corpora with commas, for the model card.")
    ] = "ja",
    dtype: Annotated[
        WeightType | None,
        typer.Option(
            "--dtype",
            help="Type of the exported weights; by default that of the checkpoint: the recipe's `precision`.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Make of a checkpoint a directory that Hugging Face's transformers loads, and show that both compute the same.

    Needs no GPU; memory for the model in fp32.

    Example: retrieva export runs/retrievabert-1.3b retrievabert-1.3b-hf
    """
    from rich.console import Console

    from retrieva_pretrain.export.needs import refuse_missing_transformers

    refuse_missing_transformers()
    from retrieva_pretrain.export.export import export as export_run

    console = Console()
    source, parity, ids = export_run(
        run,
        out,
        status=console.status,
        step=step,
        tokenizer=tokenizer,
        scores=scores,
        licence=licence,
        languages=language.split(","),
        precision=None if dtype is None else dtype.value,
    )
    console.print(
        f"{out}: step {source.step:,} of {run}. Logits of the trained and the exported model differ by at most"
        f" {parity.difference_bound} where the largest is {parity.largest_logit:.3g}, on {parity.positions:,}"
        f" positions; the tokenizers agree on {ids.tokens:,} tokens"
        + (f", {len(ids.ties)} ties of equal score aside." if ids.ties else "."),
        soft_wrap=True,
        highlight=False,
        markup=False,
    )


def fill_mask(
    directory: Annotated[Path, typer.Argument(help="An exported model.", show_default=False)],
    text: Annotated[str, typer.Argument(help="A text with <MASK|LLM-jp> in it.", show_default=False)],
    top: Annotated[int, typer.Option("--top", min=1, help="How many answers to show.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the most probable tokens for each mask of a text.

    Example: retrieva fill-mask retrievabert-1.3b-hf "日本の首都は<MASK|LLM-jp>です。"
    """
    import json
    from dataclasses import asdict

    from retrieva_pretrain.export.needs import refuse_missing_transformers

    refuse_missing_transformers()
    from retrieva_pretrain.export.fill_mask import fill_mask as fill

    for number, answers in enumerate(fill(directory, text, top), start=1):
        if as_json:
            typer.echo(json.dumps([asdict(answer) for answer in answers], ensure_ascii=False))
            continue
        typer.echo(f"mask {number}:")
        for answer in answers:
            typer.echo(f"  {answer.probability:7.2%}  {answer.token}")


def import_(
    directory: Annotated[Path, typer.Argument(help="An exported model.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="The folder to make.", show_default=False)],
    tokenizer: TokenizerFile = None,
    divisor: Annotated[
        int | None,
        typer.Option(
            "--make-vocab-size-divisible-by",
            min=1,
            help="What the rows of the embedding are a multiple of; by default what the export recorded, or 128.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Make of an exported model a Megatron checkpoint, with which a recipe can begin (`init_from`).

    Example: retrieva import retrievabert-1.3b-hf runs/imported
    """
    from retrieva_pretrain.export.needs import refuse_missing_transformers

    refuse_missing_transformers()
    from retrieva_pretrain.export.importing import import_model

    checkpoint = import_model(directory, out, tokenizer=tokenizer, divisor=divisor)
    typer.echo(f"{checkpoint}: begin a run with it by `init_from: {out}`")
