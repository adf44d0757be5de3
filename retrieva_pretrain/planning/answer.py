"""What a plan says first: how long it takes, what it costs, whether it fits, and where these figures come from."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from retrieva_pretrain.durations import format_duration
from retrieva_pretrain.planning.hardware import GIB
from retrieva_pretrain.planning.plan import Plan

_MODELLED = "modelled from the kernels' operations and bytes; not measured"


def answer(plan: Plan) -> RenderableType:
    """Return the first lines of a plan."""
    grid = Table.grid(padding=(0, 2))
    for label, value, style in [*_time(plan), *_memory(plan), *_origins(plan)]:
        grid.add_row(Text(label, style="dim"), Text(value, style=style))
    gpus = "1 GPU" if plan.gpus == 1 else f"{plan.gpus:,} GPUs"
    return Group(Text(f"{plan.name} on {gpus}, {plan.hardware.name}", style="bold"), grid, *_ignored(plan))


def _time(plan: Plan) -> list[tuple[str, str, str]]:
    run, hardware = plan.run, plan.hardware
    if run is None:
        where = f"tokenizer.model {plan.tokenizer} is not here"
        return [
            ("time", f"not known without the size of the vocabulary: {where}; give --vocab-size", "yellow")
        ]
    if run.time is None:
        ways = "name a profile that has it (--cluster), or leave out --cluster for H100"
        return [("time", f"not known: {hardware.name} has no gpu_peak_tflops; {ways}", "yellow")]
    ends = f"{format_duration(run.time.shortest)} to {format_duration(run.time.longest)}"
    rows = [("time", f"{format_duration(run.time.expected)} ({ends})", "bold")]
    cost = _gpu_time(run.time.expected * plan.gpus)
    if run.node_hours is not None:
        nodes = "1 node" if plan.nodes == 1 else f"{plan.nodes:,} nodes"
        cost += f", {_number(run.node_hours)} node-hours on {nodes}"
    if run.price is not None:
        cost += f" = {run.price:,.0f} {hardware.price_unit or ''}".rstrip()
    rows.append(("cost", cost, "bold"))
    if run.jobs is not None and hardware.walltime is not None:
        many = f"{run.jobs} of {format_duration(hardware.walltime)}"
        rows.append(("jobs", many + (", one after the other" if run.jobs > 1 else ""), ""))
    return rows


def _gpu_time(seconds: float) -> str:
    days = seconds / 86_400
    return f"{days:,.1f} GPU-days" if days >= 2 else f"{_number(seconds / 3600)} GPU-hours"


def _number(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def _memory(plan: Plan) -> list[tuple[str, str, str]]:
    if plan.memory is None:
        return [("memory", "not known without the size of the vocabulary", "yellow")]
    total, usable = plan.memory.total, plan.hardware.usable_memory
    largest = next(s for s in plan.stages if s.cost is not None and s.cost.memory.total == total)
    where = f"at length {largest.seq_length:,}"
    if usable is None:
        return [("memory", f"{total / GIB:.1f} GiB per GPU {where}; what a GPU has is not known", "yellow")]
    fits = total <= usable
    text = (
        f"{'fits' if fits else 'does NOT fit'}: {total / GIB:.1f} of {usable / GIB:.1f} GiB per GPU {where}"
    )
    more = [("", line, "yellow") for line in plan.measured_memory]
    return [("memory", text, "bold" if fits else "bold red"), *more]


def _origins(plan: Plan) -> list[tuple[str, str, str]]:
    """Say where the time comes from: one line for all stages, or one for those of each origin."""
    if not plan.speeds:
        return []
    stages: dict[str, list[str]] = {}
    for number, speed in enumerate(plan.speeds, start=1):
        text = {
            "assumed": f"{speed.origin} of {plan.hardware.peak_tflops:,.0f} TFLOP/s; not measured",
            "modelled": _MODELLED,
            "measured": speed.origin,
        }[speed.source]
        stages.setdefault(text, []).append(str(number))
    rows: list[tuple[str, str, str]] = []
    for text, numbers in stages.items():
        of = ""
        if len(stages) > 1:
            of = f"stage{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}: "
        rows.append(("figures" if not rows else "", of + text, ""))
    is_measured = any(speed.source == "measured" for speed in plan.speeds)
    if plan.measured is not None and not is_measured:
        held = "no stage of this plan: other lengths, recomputation, tensor or pipeline parallelism"
        rows.append(("", f"the measurement of {plan.measured} holds {held}", "yellow"))
    if is_measured and plan.data_parallel_size > 1:
        rows.append(("", "communication between the copies of the model is modelled", ""))
    if plan.assumptions:
        rows.append(("assumed", ", ".join(plan.assumptions), ""))
    return rows


def _ignored(plan: Plan) -> list[RenderableType]:
    """Say what is ignored, fields of one reason together."""
    fields: dict[str, list[str]] = {}
    for message in plan.ignored:
        field, _, reason = message.partition(": ")
        fields.setdefault(reason, []).append(field)
    return [Text(f"{', '.join(names)}: {reason}", style="yellow") for reason, names in fields.items()]


def speed_tables(plan: Plan) -> list[RenderableType]:
    """Return the tables of speed and of operations."""
    tables: list[RenderableType] = []
    if plan.speeds:
        tables.append(_speeds(plan))
        if plan.mfu is None:
            tables.append(Text("bound: what a step waits for most, and its share of the step", style="dim"))
    operations = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("stage", "GFLOPs/tok", "body", "attention", "head"):
        operations.add_column(heading, justify="right", no_wrap=True)
    for stage in plan.stages:
        if stage.cost is not None:
            flops = stage.cost.flops_per_token
            parts = (f"{part / flops.total:.1%}" for part in (flops.body, flops.attention, flops.head))
            operations.add_row(str(stage.stage + 1), f"{flops.total / 1e9:.3g}", *parts)
    return [*tables, operations]


def _speeds(plan: Plan) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    is_modelled = plan.mfu is None
    for heading in (
        "stage",
        "tok/s/GPU",
        "MFU",
        *(["bound"] if is_modelled else []),
        "time",
        "range",
        "figures",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for stage in plan.stages:
        if stage.cost is None or stage.cost.speed is None or stage.cost.time is None:
            continue
        speed, taken = stage.cost.speed, stage.cost.time
        bound = []
        if speed.bound is not None and speed.parts is not None:
            bound = [f"{speed.bound} {getattr(speed.parts, speed.bound) / speed.parts.total:.0%}"]
        table.add_row(
            str(stage.stage + 1),
            f"{speed.tokens_per_second:,.0f}",
            f"{speed.mfu:.1%}",
            *bound,
            format_duration(taken.expected),
            f"{format_duration(taken.shortest)} - {format_duration(taken.longest)}",
            speed.source,
        )
    return table
