"""What the measurements of a preflight mean: a line a check, green or red. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Literal

from data_prep.tokenizer import Tokenizer
from retrieva_pretrain.planning import plan as planned
from retrieva_pretrain.planning.parameters import count_parameters
from retrieva_pretrain.recipe.layout import padded_vocab_size
from retrieva_pretrain.recipe.schema import Recipe

Level = Literal["green", "yellow", "red", "none"]

_MATMUL = (0.40, 0.55)
"""Of the dense peak: below the first a GPU is not fit, below the second it is worth a look. Large products on healthy
GPUs reach 60 to 80 %."""
_COPY = (0.50, 0.70)
_OUTLIER = (0.80, 0.90)
"""Of the median of all GPUs."""
_CLOCK = (1.0, 0.1)


@dataclass(frozen=True)
class Promised:
    """What a cluster's profile says of its GPUs; None is what it does not say."""

    gpus_per_node: int
    peak_tflops: float | None
    """Of one GPU, dense BF16."""

    memory_bandwidth: float | None
    """Of one GPU, in GB/s."""


@dataclass(frozen=True)
class Finding:
    """One check: `none` where it could not be made, such as for want of a GPU."""

    check: str
    level: Level
    said: str


def judge(
    ranks: Sequence[dict[str, Any]],
    promised: Promised,
    *,
    checkpoint_bytes: int | None = None,
    refusal: str | None = None,
    stage_times: dict[str, Any] | None = None,
) -> list[Finding]:
    """Return the findings on what all processes have measured.

    Args:
        ranks: of `measure`, by rank.
        promised: what the rates are held against.
        checkpoint_bytes: what the checkpoints of the recipe need, where there is one.
        refusal: why a training of the recipe would be refused on these nodes; None where it would not.
        stage_times: what the timing of the recipe's stages found (`stages.Found`, or an `error`); None where none was
            asked for.
    """
    gpus = any(rank["platform"] == "cuda" for rank in ranks)
    return [
        _processes(ranks, promised),
        *_versions(ranks),
        _health(ranks, gpus=gpus),
        _rate(ranks, "matrix product", "matmul_tflops", "TFLOP/s", promised.peak_tflops, _MATMUL, gpus=gpus),
        _rate(
            ranks, "memory copy", "copy_gb_per_second", "GB/s", promised.memory_bandwidth, _COPY, gpus=gpus
        ),
        _all_reduce(ranks, "all-reduce in a node", "all_reduce_in_node"),
        _all_reduce(ranks, "all-reduce of all nodes", "all_reduce_of_all"),
        _shared_folder(ranks),
        _clocks(ranks),
        _corpora(ranks),
        _disk(ranks, checkpoint_bytes),
        _parity(ranks),
        *_training_speed(stage_times, gpus=gpus),
        *([] if refusal is None else [Finding("recipe", "red", f"training would be refused: {refusal}")]),
    ]


def checkpoint_bytes(recipe: Recipe) -> int:
    """Return what the checkpoints of a recipe need at most, the one being written included.

    Raises:
        DataPrepError: the tokenizer is not here.
    """
    vocab_size = Tokenizer(recipe.tokenizer.model).vocab_size
    padded = padded_vocab_size(vocab_size, recipe.tokenizer.make_vocab_size_divisible_by)
    return planned.checkpoint_bytes(recipe, count_parameters(recipe.model, padded).total)[1]


def as_json(findings: Sequence[Finding]) -> list[dict[str, str]]:
    """Return findings as plain mappings."""
    return [asdict(finding) for finding in findings]


def _processes(ranks: Sequence[dict[str, Any]], promised: Promised) -> Finding:
    hosts = list(dict.fromkeys(rank["host"] for rank in ranks))
    nodes = len({rank["node"] for rank in ranks})
    processes = "1 process" if len(ranks) == 1 else f"{len(ranks)} processes"
    said = f"{processes} on {nodes} node{'s' if nodes > 1 else ''}: {' '.join(hosts)}"
    if promised.gpus_per_node and not any(rank["platform"] == "cuda" for rank in ranks):
        return Finding("processes", "red", f"{said}; the profile promises GPUs and torch sees none")
    return Finding("processes", "green", said)


def _versions(ranks: Sequence[dict[str, Any]]) -> Iterator[Finding]:
    first = ranks[0]["versions"]
    shown = ", ".join(f"{name} {value}" for name, value in first.items() if value)
    drivers = {rank["gpu"]["driver"] for rank in ranks if rank.get("gpu") and "driver" in rank["gpu"]}
    if drivers:
        shown += f", driver {'/'.join(sorted(drivers))}"
    others = sorted({rank["host"] for rank in ranks if rank["versions"] != first})
    if others or len(drivers) > 1:
        yield Finding("versions", "red", f"{shown}; others on {' '.join(others) or 'some nodes'}")
    else:
        yield Finding("versions", "green", shown)
    if "Transformer Engine" not in first:
        said = "not installed; only kernels.transformer_impl: transformer_engine and kernels.fp8 need it"
        yield Finding("Transformer Engine", "none", said)


def _health(ranks: Sequence[dict[str, Any]], *, gpus: bool) -> Finding:
    seen = [rank for rank in ranks if rank.get("gpu")]
    if not seen:
        return Finding(
            "GPU health", "yellow" if gpus else "none", "nvidia-smi says nothing" if gpus else "no GPU"
        )
    problems = []
    for rank in seen:
        gpu, where = rank["gpu"], f"{rank['host']} GPU {rank['local_rank']}"
        if gpu.get("uncorrected_errors", "0") not in ("0", "[N/A]", "N/A"):
            problems.append(f"{where}: {gpu['uncorrected_errors']} uncorrected memory errors")
        if gpu.get("slowdown") == "Active":
            problems.append(f"{where}: slowed down by the hardware (heat or power)")
    if problems:
        return Finding("GPU health", "red", "; ".join(problems))
    clocks = {
        f"{rank['host']} GPU {rank['local_rank']}": float(rank["gpu"]["clock"])
        for rank in seen
        if rank["gpu"].get("clock", "").isdecimal()
    }
    if not clocks:
        return Finding("GPU health", "green", f"{len(seen)} GPUs, clocks not told")
    said = f"{len(seen)} GPUs, {_span(list(clocks.values()))} MHz"
    slow = [f"{w} {c:.0f}" for w, c in clocks.items() if c < _OUTLIER[1] * median(clocks.values())]
    if slow:
        return Finding("GPU health", "yellow", f"{said}; slower than the others: {', '.join(slow)}")
    return Finding("GPU health", "green", said)


def _rate(
    ranks: Sequence[dict[str, Any]],
    check: str,
    name: str,
    unit: str,
    peak: float | None,
    limits: tuple[float, float],
    *,
    gpus: bool,
) -> Finding:
    """Hold a rate against the peak and against the other GPUs."""
    if broken := [rank for rank in ranks if isinstance(rank[name], dict)]:
        return Finding(
            check, "red", f"rank {broken[0]['rank']} on {broken[0]['host']}: {broken[0][name]['error']}"
        )
    values = [float(rank[name]) for rank in ranks]
    said = f"{_span(values)} {unit}" + ("" if gpus else " (CPU, no GPU)")
    if not gpus:
        return Finding(check, "none", said)
    middle, level = median(values), "green"
    slow = []
    for rank, value in zip(ranks, values, strict=True):
        if value < _OUTLIER[1] * middle:
            slow.append(f"{rank['host']} GPU {rank['local_rank']} only {value:,.0f}")
            level = "red" if value < _OUTLIER[0] * middle or level == "red" else "yellow"
    if peak is not None:
        said += f", {middle / peak:.0%} of the peak {peak:,.0f}"
        if middle < limits[0] * peak:
            level = "red"
        elif middle < limits[1] * peak and level == "green":
            level = "yellow"
    if slow:
        said += "; slower than the others: " + ", ".join(slow)
    return Finding(check, level, said)  # type: ignore[arg-type]


def _all_reduce(ranks: Sequence[dict[str, Any]], check: str, name: str) -> Finding:
    values = [float(rank[name]) for rank in ranks if rank[name] is not None]
    if not values:
        return Finding(check, "none", "one process" if name == "all_reduce_in_node" else "one node")
    slow = [
        f"{rank['host']} {rank[name]:,.2f}"
        for rank in ranks
        if rank["local_rank"] == 0 and rank[name] is not None and rank[name] < _OUTLIER[0] * median(values)
    ]
    # CPUs share their machine with others; a slow one there says nothing.
    level: Level = "red" if slow and ranks[0]["platform"] == "cuda" else "green"
    return Finding(check, level, f"{_span(values)} GB/s" + (f"; slower: {', '.join(slow)}" if slow else ""))


def _shared_folder(ranks: Sequence[dict[str, Any]]) -> Finding:
    blind = [rank["host"] for rank in ranks if "sign" in rank and not rank["sign"]["seen"]]
    if blind:
        return Finding(
            "shared folder",
            "red",
            f"what the submitting machine wrote cannot be seen, or nothing be written, on {' '.join(blind)}",
        )
    return Finding(
        "shared folder", "green", "every node sees what the submitting machine wrote, and may write there"
    )


def _clocks(ranks: Sequence[dict[str, Any]]) -> Finding:
    worst = max(ranks, key=lambda rank: abs(rank["clock_offset"]))
    offset = abs(worst["clock_offset"])
    level: Level = "red" if offset > _CLOCK[0] else "yellow" if offset > _CLOCK[1] else "green"
    return Finding("clocks", level, f"at most {offset:.3f} s apart from the others ({worst['host']})")


def _corpora(ranks: Sequence[dict[str, Any]]) -> Finding:
    found = [rank for rank in ranks if "corpora" in rank]
    if not found:
        return Finding("corpora", "none", "no recipe was given (--recipe)")
    for rank in found:
        if "error" in rank["corpora"]:
            return Finding("corpora", "red", f"{rank['host']}: {rank['corpora']['error']}")
    rates = [rank["corpora"]["gb_per_second"] for rank in found]
    return Finding("corpora", "green", f"whole at a quick look, read at {_span(rates)} GB/s a node")


def _disk(ranks: Sequence[dict[str, Any]], needed: int | None) -> Finding:
    free = [rank["free_bytes"] for rank in ranks if isinstance(rank.get("free_bytes"), int)]
    if not free:
        return Finding("disk", "none", "no recipe was given (--recipe)")
    if needed is None:
        return Finding("disk", "none", "what the checkpoints need is not known without the tokenizer")
    said = f"{min(free) / 1e9:,.0f} GB free, the checkpoints need {needed / 1e9:,.1f} GB"
    return Finding("disk", "green" if min(free) > needed else "red", said)


def _parity(ranks: Sequence[dict[str, Any]]) -> Finding:
    found = ranks[0]["parity"] or {}
    if "skipped" in found:
        return Finding("Transformer Engine's layer", "none", found["skipped"])
    if "error" in found:
        return Finding("Transformer Engine's layer", "yellow", f"could not be compared: {found['error']}")
    said = f"differs from megatron-core's own by {found['difference']:.1%}"
    return Finding("Transformer Engine's layer", "green" if found["good"] else "red", said)


def _training_speed(times: dict[str, Any] | None, *, gpus: bool) -> Iterator[Finding]:
    """One line a stage, and one for what went wrong besides."""
    if times is None:
        yield Finding("training speed", "none", "not asked for (--recipe, without --no-speed)")
        return
    for stage in times.get("stages", []):
        check = f"training at length {stage['seq_length']}"
        if "error" in stage:
            yield Finding(check, "yellow", f"could not be timed: {stage['error']}")
            continue
        mfu = "" if stage["mfu"] is None else f", {stage['mfu']:.1%} MFU"
        said = (
            f"{stage['tokens_per_second']:,.0f} tokens/s per GPU{mfu}, {stage['peak_memory'] / 2**30:.1f} GiB at most,"
            f" micro-batches of {stage['micro_batch_size']}"
        )
        if stage["too_large"]:
            said += f"; {', '.join(map(str, stage['too_large']))} did not fit"
        if not gpus:
            said = said.replace("per GPU", "per process") + " (CPU, no GPU)"
        yield Finding(check, "yellow" if stage["too_large"] else "green" if gpus else "none", said)
    if "error" in times:
        yield Finding("training speed", "yellow", f"could not be timed: {times['error']}")


def _span(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    digits = 0 if low >= 100 else 2
    return f"{low:,.{digits}f}" if len(values) == 1 else f"{low:,.{digits}f} to {high:,.{digits}f}"
