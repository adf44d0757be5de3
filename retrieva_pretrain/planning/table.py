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
        ("sample", _sample(plan)),
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
        Text("read: without each sample's own <CLS> and <SEP>; times: held-out text left out", style="dim"),
        *_shortfalls(plan),
    )


def _model(plan: Plan) -> str:
    if plan.parameters is None:
        return f"{plan.parameters_without_vocabulary:,} parameters without the vocabulary"
    return f"{plan.parameters:,} parameters"


def _sample(plan: Plan) -> str:
    if plan.special_tokens_per_window:
        return "<CLS>, tokens of a corpus, <SEP>"
    return "tokens of a corpus, which has <CLS> and <SEP> round every document"


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
    for heading in ("share", "documents", "tokens", "read", "times"):
        table.add_column(heading, justify="right", no_wrap=True)
    for corpus in plan.corpora:
        share = "by tokens" if corpus.share is None else f"{corpus.share:.1%}"
        here = corpus.documents is not None and corpus.tokens is not None
        table.add_row(
            Text(corpus.path),
            share,
            "not here" if corpus.documents is None else f"{corpus.documents:,}",
            "" if corpus.tokens is None else _short(corpus.tokens),
            "" if corpus.tokens_read is None else _short(corpus.tokens_read),
            "" if corpus.epochs is None else _times(corpus.epochs),
            style=None if here else "yellow",
        )
    return table


def _times(epochs: float) -> str:
    """Return how often something is read: 0.04, 1.3, 250."""
    return f"{epochs:.2f}" if epochs < 1 else f"{epochs:,.1f}" if epochs < 100 else f"{epochs:,.0f}"


def _shortfalls(plan: Plan) -> list[RenderableType]:
    """Say by how much token budgets are missed, where there are any: the curriculum decides what is read."""
    asked = sum(corpus.budget or 0 for corpus in plan.corpora)
    if not asked:
        return []
    read = sum(corpus.tokens_read or 0 for corpus in plan.corpora)
    return [
        Text(
            f"token budgets: {_short(asked)} asked for, {_short(read)} read ({read / asked - 1:+.1%} for each)",
            style="dim",
        )
    ]


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
