"""A plan laid out for a terminal of 80 columns, or for a file."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from retrieva_pretrain.durations import format_duration
from retrieva_pretrain.planning.answer import answer, speed_tables
from retrieva_pretrain.planning.cost import Times
from retrieva_pretrain.planning.hardware import GIB
from retrieva_pretrain.planning.plan import Plan
from retrieva_pretrain.planning.what_if import Row


def render(plan: Plan) -> RenderableType:
    """Return the answer, then the plan's tables, each under its title."""
    return Group(
        answer(plan),
        *_title("Model and batch"),
        _facts(plan),
        *_title("Stages"),
        _stages(plan),
        _note("batch/GPU: samples of a forward pass x passes in a step"),
        *_costs(plan),
        *_title("Corpora"),
        _corpora(plan),
        _note("read: without each sample's own <CLS> and <SEP>; times: held-out text left out"),
        *_shortfalls(plan),
    )


def _title(text: str) -> tuple[RenderableType, ...]:
    return Text(""), Text(text, style="bold")


def _note(text: str) -> Text:
    return Text(text, style="dim")


def _grid(rows: Sequence[tuple[str, str, str]]) -> Table:
    """Return labelled lines; the last of each is its style."""
    grid = Table.grid(padding=(0, 2))
    for label, value, style in rows:
        grid.add_row(_note(label), Text(value, style=style))
    return grid


def _facts(plan: Plan) -> Table:
    copies = "1 copy" if plan.data_parallel_size == 1 else f"{plan.data_parallel_size} copies"
    sizes = (plan.tensor_model_parallel_size, plan.pipeline_model_parallel_size)
    layout = f"tensor parallel {sizes[0]}, pipeline parallel {sizes[1]}"
    facts = [
        ("model", _model(plan)),
        ("vocabulary", _vocabulary(plan)),
        ("sample", _sample(plan)),
        ("batch", f"{plan.global_batch_size:,} samples a step on {_gpus(plan)} ({copies} of the model)"),
        *([("layout", layout)] if sizes != (1, 1) else []),
        ("kernels", _kernels(plan)),
        ("GPUs that divide it", _numbers(plan.possible_gpus)),
    ]
    return _grid([(label, value, "") for label, value in facts])


def _gpus(plan: Plan) -> str:
    return "1 GPU" if plan.gpus == 1 else f"{plan.gpus:,} GPUs"


def _kernels(plan: Plan) -> str:
    kernels = plan.kernels
    fused = [
        name
        for name, is_on in (
            ("bias + activation", kernels.bias_activation_fusion),
            ("bias + dropout", kernels.bias_dropout_fusion),
            ("gradient sums", kernels.gradient_accumulation_fusion),
        )
        if is_on
    ]
    return (
        f"{kernels.attention} attention, fused: {', '.join(fused) or 'none'}"
        + (", layers compiled" if kernels.compile_layers else "")
        + (f", FP8 {kernels.fp8}" if kernels.fp8 else "")
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
        padded = plan.padded_vocab_size
        known = "" if padded is None else f"; {padded:,} padded, by the measurement"
        return f"{plan.tokenizer} is not here{known}"
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


def _costs(plan: Plan) -> list[RenderableType]:
    """Return operations, memory and time of the stages, and what the run takes in all."""
    if plan.run is None:
        return [Text("no memory and no time: they need the size of the vocabulary", style="yellow")]
    return [
        *_title("Time"),
        *speed_tables(plan),
        *_title("Memory of a GPU, in GiB"),
        *_memory(plan),
    ]


def _time_cells(taken: Times | None) -> tuple[str, str]:
    if taken is None:
        return "", ""
    return format_duration(
        taken.expected
    ), f"{format_duration(taken.shortest)} - {format_duration(taken.longest)}"


def _memory(plan: Plan) -> list[RenderableType]:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in (
        "stage",
        "recompute",
        "weights",
        "grads",
        "optim",
        "kept",
        "layer",
        "logits",
        "GiB/GPU",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    usable = plan.hardware.usable_memory
    for stage in plan.stages:
        if stage.cost is None:
            continue
        memory = stage.cost.memory
        parts = (
            memory.weights,
            memory.gradients,
            memory.optimizer,
            memory.activations,
            memory.recomputation + memory.backward,
            memory.logits,
        )
        table.add_row(
            str(stage.stage + 1),
            stage.recompute,
            *(_gib(part) for part in parts),
            _gib(memory.total),
            style="bold red" if usable is not None and memory.total > usable else None,
        )
    scores = "keeps" if plan.kernels.keeps_scores else "keeps no"
    notes = [
        _note(
            f"{plan.kernels.attention} attention {scores} scores; kept: activations for backward; layer: what one layer's backward pass computes again"
            " and adds, unless the logits are more; modelled, --trace traces it"
        )
    ]
    if plan.run is not None:
        each, most = _bytes(plan.run.checkpoint), _bytes(plan.run.checkpoints)
        notes.append(_note(f"on disk: checkpoints of {each} each, {most} at most at a time"))
    return [table, *notes]


def render_what_if(rows: Sequence[Row]) -> RenderableType:
    """Return the table of several numbers of nodes."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("nodes", "GPUs", "batch/GPU", "GiB/GPU", "time", "range", "node-hours", "price"):
        table.add_column(heading, justify="right")
    notes: list[RenderableType] = []
    for row in rows:
        plan = row.plan
        if row.refusal is not None:
            notes.append(Text(f"{row.nodes} nodes: {row.refusal}", style="yellow"))
        if plan is None or plan.run is None:
            table.add_row(str(row.nodes), str(row.gpus), "cannot run" if row.refusal else "", *[""] * 5)
            continue
        memory = max(stage.cost.memory.total for stage in plan.stages if stage.cost is not None)
        batches = "/".join(str(stage.micro_batch_size) for stage in plan.stages)
        price = "" if plan.run.price is None else f"{plan.run.price:,.0f} {plan.hardware.price_unit or ''}"
        hours = "" if plan.run.node_hours is None else f"{plan.run.node_hours:,.0f}"
        table.add_row(
            str(row.nodes),
            str(row.gpus),
            batches,
            _gib(memory),
            *_time_cells(plan.run.time),
            hours,
            price,
            style="red" if row.refusal else None,
        )
    if all(row.plan is None or row.plan.run is None or row.plan.run.price is None for row in rows):
        table.columns.pop()
    origins = sorted({speed.source for row in rows if row.plan for speed in row.plan.speeds})
    source = (
        [_note(f"batch/GPU: samples of a forward pass, by stage; times: {' and '.join(origins)}")]
        if origins
        else []
    )
    return Group(table, *source, *notes)


def _gib(size: float) -> str:
    return f"{size / GIB:.1f}"


def _bytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


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
