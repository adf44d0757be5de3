"""A plan laid out for a terminal of 80 columns, or for a file."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from retrieva_pretrain.planning.plan import Plan


def render(plan: Plan) -> RenderableType:
    """Return the plan's tables and the lines between them."""
    copies = "1 copy" if plan.data_parallel_size == 1 else f"{plan.data_parallel_size} copies"
    gpus = "1 GPU" if plan.gpus == 1 else f"{plan.gpus} GPUs"
    facts = [
        ("model", _model(plan)),
        ("vocabulary", _vocabulary(plan)),
        ("batch", f"{plan.global_batch_size:,} samples a step on {gpus} ({copies} of the model)"),
        ("GPUs that divide it", _numbers(plan.possible_gpus)),
    ]
    summary = Table.grid(padding=(0, 2))
    for label, value in facts:
        summary.add_row(Text(label, style="dim"), Text(value))
    return Group(
        Text(plan.name, style="bold"),
        summary,
        _stages(plan),
        Text("batch/GPU: samples of a forward pass x passes in a step", style="dim"),
        _corpora(plan),
    )


def _model(plan: Plan) -> str:
    if plan.parameters is None:
        return f"{plan.parameters_without_vocabulary:,} parameters without the vocabulary"
    return f"{plan.parameters:,} parameters"


def _vocabulary(plan: Plan) -> str:
    if plan.vocab_size is None:
        return f"{plan.tokenizer} is not here"
    return f"{plan.vocab_size:,} pieces, padded to {plan.padded_vocab_size:,}"


def _stages(plan: Plan) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("stage", "length", "steps", "samples", "tokens", "first lr", "last lr", "batch/GPU"):
        table.add_column(heading, justify="right", no_wrap=True)
    for stage in plan.stages:
        table.add_row(
            str(stage.stage + 1),
            f"{stage.seq_length:,}",
            f"{stage.steps:,}",
            _short(stage.samples),
            _short(stage.tokens),
            _rate(stage.first_lr),
            _rate(stage.last_lr),
            f"{stage.micro_batch_size} x {stage.num_microbatches}",
        )
    table.add_section()
    table.add_row("all", "", f"{plan.steps:,}", _short(plan.samples), _short(plan.tokens), style="bold")
    return table


def _corpora(plan: Plan) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("corpus", overflow="fold")
    for heading in ("share", "documents", "tokens"):
        table.add_column(heading, justify="right", no_wrap=True)
    for corpus in plan.corpora:
        share = "by tokens" if corpus.share is None else f"{corpus.share:.1%}"
        if corpus.documents is None or corpus.tokens is None:
            table.add_row(Text(corpus.path), share, "not here", "", style="yellow")
        else:
            table.add_row(Text(corpus.path), share, f"{corpus.documents:,}", _short(corpus.tokens))
    return table


def _numbers(numbers: tuple[int, ...]) -> str:
    shown = ", ".join(str(number) for number in numbers[:8])
    return shown if len(numbers) <= 8 else f"{shown} ... {numbers[-1]}"


def _rate(rate: float) -> str:
    return "0" if rate == 0 else f"{rate:.2e}"


def _short(number: int) -> str:
    """Return a number of up to four digits and its unit: 187.3 B."""
    for unit, size in (("T", 10**12), ("B", 10**9), ("M", 10**6), ("k", 10**3)):
        # 999,950 and more would be rounded to 1000.0 k.
        if number >= size * 0.99995:
            return f"{number / size:.1f} {unit}"
    return str(number)
