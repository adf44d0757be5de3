"""What the plan predicts for an H100 beside what the GPU kit has measured: writes docs/benchmarks/h100.md.

    python benchmarks/gpu/report.py gpu-results
    python benchmarks/gpu/report.py --predictions     # every measured column says "not yet"

Needs no torch.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from choices import AT, CHOICES, COMPILED_CHOICES, LAYERS
from part import SIZES, VOCAB_SIZE

from retrieva_pretrain.errors import RetrievaError
from retrieva_pretrain.planning.corpora import plan_data
from retrieva_pretrain.planning.hardware import GIB, H100
from retrieva_pretrain.planning.measured import Measured, read_measured
from retrieva_pretrain.planning.plan import Plan, StagePlan, make_plan
from retrieva_pretrain.planning.throughput import micro_batch, optimizer_seconds
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes" / "retrievabert-1.3b.yaml"
PAGE = ROOT / "docs" / "benchmarks" / "h100.md"
NOT_YET = "not yet"
PADDED_VOCAB_SIZE = 99_584
NOTHING_AGAIN = [f"curriculum.{index}.recompute_granularity=null" for index in range(4)]
TARGETS = {128: 0.45, 256: 0.45, 512: 0.45, 2048: 0.42}
"""MFU that the project aims at on one H100 of 80 GB without Transformer Engine."""

RUN_GPUS = 4
LENGTH_COLUMNS = (
    "length x samples",
    "predicted tokens/s",
    "measured",
    "predicted MFU",
    "measured",
    "goal",
    "predicted GiB",
    "measured",
)
KERNEL_COLUMNS = (
    "kernels",
    *(
        f"{length} x {samples}, {what}"
        for length, samples in AT.items()
        for what in ("predicted", "measured")
    ),
)
TEMPLATE = """# The 1.3 B recipe on an H100: predicted and measured

`python benchmarks/gpu/report.py gpu-results` writes this page from what `make gpu` has measured and from what the model
behind `retrieva plan` predicts for an H100 SXM of 80 GB with a dense BF16 peak of PEAK TFLOP/s. Nothing predicted is a
measurement. "not yet": no GPU has run it.

{MACHINE}

## Training by length and micro-batch

Whole steps on one GPU: the recipe's batch in micro-batches, gradient norm, clipping and optimizer, with the kernels that
the recipe resolves to on CUDA. Memory is of weights, gradients, the whole optimizer state and one micro-batch.

{LENGTHS}

## The whole run

{RUN}

## The kernels one by one

LAYERS of the 48 layers, tokens per second in micro-batches; each fusion is added to those before it.

{KERNELS}

## Promises

{PROMISES}
"""
Results = list[dict[str, Any]]


def main() -> int:
    """Write the page; 1 where there are no results to read."""
    parser = argparse.ArgumentParser(description="Write docs/benchmarks/h100.md.")
    parser.add_argument("results", nargs="?", type=Path, help="the folder that `make gpu` has written")
    parser.add_argument("--predictions", action="store_true", help="without results: nothing is measured")
    parser.add_argument("--page", type=Path, default=PAGE, help="another file to write")
    given = parser.parse_args()
    if given.predictions == (given.results is not None):
        parser.error("give a folder of results, or --predictions")
    try:
        text = page(given.results)
    except (OSError, ValueError, KeyError, RetrievaError) as error:
        print(f"report.py: {given.results}: no results of the kit: {error!r}", file=sys.stderr)
        return 1
    if not given.page.parent.is_dir():
        print(f"report.py: --page {given.page}: there is no such folder", file=sys.stderr)
        return 1
    given.page.write_text(text, encoding="utf-8")
    print(given.page)
    return 0


def page(folder: Path | None) -> str:
    """Return the page; `folder` is what the kit has written, None where no GPU has run it."""
    results: Results = []
    measured = None
    if folder is not None:
        lines = (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()
        results = [json.loads(line) for line in lines]
        file = folder / "measured.json"
        measured = read_measured(file) if file.exists() else None
    parts = {
        "MACHINE": _machine(results),
        "LENGTHS": table(LENGTH_COLUMNS, _lengths(results)),
        "RUN": table(("", "predicted", "measured"), _run(results, measured)),
        "KERNELS": table(KERNEL_COLUMNS, _kernels(results)),
        "PROMISES": table(("promise", "measured"), _promises(results)),
    }
    text = TEMPLATE.replace("PEAK", f"{H100.peak_tflops:,.0f}").replace("LAYERS", str(LAYERS))
    for name, content in parts.items():
        text = text.replace(f"{{{name}}}", "\n".join(content))
    return text


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a Markdown table; all columns but the first are figures."""
    return [
        f"| {' | '.join(head)} |",
        f"| --- |{' ---: |' * (len(head) - 1)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def predicted(length: int, samples: int) -> tuple[Plan, StagePlan]:
    """Return the plan of the recipe on one GPU with this micro-batch at this length, and its stage."""
    index = _stage_of(load_yaml(Recipe, RECIPE), length)
    changed = [f"curriculum.{index}.max_micro_batch_size={samples}", *NOTHING_AGAIN]
    plan = plan_of(load_yaml(Recipe, RECIPE, changed), 1)
    return plan, plan.stages[index]


def _stage_of(recipe: Recipe, length: int) -> int:
    return next(index for index, stage in enumerate(recipe.curriculum) if stage.seq_length == length)


def plan_of(recipe: Recipe, gpus: int, measured: Measured | None = None) -> Plan:
    """Return the plan with the vocabulary of the true tokenizer, whether its file is here or not."""
    data = replace(plan_data(recipe), vocab_size=VOCAB_SIZE, padded_vocab_size=PADDED_VOCAB_SIZE)
    return make_plan(recipe, gpus, H100, measured=measured, data=data)


def _lengths(results: Results) -> Iterator[Sequence[str]]:
    speeds = {
        (r["length"], r["samples"]): r for r in results if r["part"] == "lengths" and r["kind"] == "speed"
    }
    for length, sizes in SIZES.items():
        for samples in sorted(sizes):
            plan, stage = predicted(length, samples)
            assert stage.cost is not None and stage.cost.speed is not None
            found = _whole_step(speeds.get((length, samples), {}), plan, stage)
            yield (
                f"{length} x {samples}",
                f"{stage.cost.speed.tokens_per_second:,.0f}",
                _figure(found, "tokens_per_second", "{:,.0f}"),
                f"{stage.cost.speed.mfu:.1%}",
                _figure(found, "mfu", "{:.1%}"),
                f"{TARGETS[length]:.0%}",
                f"{stage.cost.memory.total / GIB:.1f}",
                _figure(found, "peak_memory", "{:.1f}", 1 / GIB),
            )


def _whole_step(found: dict[str, Any], plan: Plan, stage: StagePlan) -> dict[str, Any]:
    """Return a measured micro-batch as a whole step of the recipe on this GPU."""
    if "micro_batch_seconds" not in found:
        return found
    batch = plan.global_batch_size
    seconds = batch / found["samples"] * found["micro_batch_seconds"] + found["update_seconds"]
    tokens_per_second = batch * stage.seq_length / seconds
    mfu = found["mfu"] and found["mfu"] * tokens_per_second / found["tokens_per_second"]
    return {**found, "tokens_per_second": tokens_per_second, "mfu": mfu}


def _figure(result: dict[str, Any], name: str, form: str, factor: float = 1.0) -> str:
    if result.get("out_of_memory"):
        return "out of memory"
    if "error" in result:
        return "failed"
    value = result.get(name)
    return NOT_YET if value is None else form.format(value * factor)


def _run(results: Results, measured: Measured | None) -> Iterator[Sequence[str]]:
    recipe = load_yaml(Recipe, RECIPE)
    found = NOT_YET
    if measured is not None:
        found = f"{_days(plan_of(recipe, RUN_GPUS, measured)):,.1f}, from measured micro-batches"
    yield f"H100-days of the whole run on {RUN_GPUS} GPUs", f"{_days(plan_of(recipe, RUN_GPUS)):,.1f}", found
    timed = next((r for r in results if r["part"] == "lengths" and "update_seconds" in r), {})
    expected = optimizer_seconds(recipe, PADDED_VOCAB_SIZE, 1, H100)
    yield (
        "norm, clipping and optimizer of a step on one GPU, ms",
        f"{expected * 1e3:.1f}",
        _figure(timed, "update_seconds", "{:.1f}", 1e3),
    )


def _days(plan: Plan) -> float:
    assert plan.run is not None and plan.run.gpu_hours is not None
    return plan.run.gpu_hours / 24


def _kernels(results: Results) -> Iterator[Sequence[str]]:
    rows = [r for r in results if r["part"] in ("fusions", "compile") and r["kind"] == "speed"]
    for name, overrides in {**CHOICES, **COMPILED_CHOICES}.items():
        recipe = load_yaml(Recipe, RECIPE, [*overrides, f"model.num_layers={LAYERS}", *NOTHING_AGAIN])
        found = {r.get("length"): r for r in rows if r["name"] == name}
        cells = []
        for length, samples in AT.items():
            index = _stage_of(recipe, length)
            seconds = micro_batch(recipe, index, samples, PADDED_VOCAB_SIZE, H100).seconds
            cells.append(f"{length * samples / seconds:,.0f}")
            cells.append(_figure(found.get(length, {}), "tokens_per_second", "{:,.0f}"))
        yield (name, *cells)


def _promises(results: Results) -> Iterator[Sequence[str]]:
    def of(part: str, kind: str) -> Results:
        return [r for r in results if r["part"] == part and r["kind"] == kind]

    def verdict(rows: Results, flag: str) -> str:
        if not rows:
            return NOT_YET
        return (
            "yes"
            if all(r.get(flag) for r in rows)
            else "NO: " + json.dumps([r for r in rows if not r.get(flag)])[:200]
        )

    yield (
        "dropout of 0.1 is 0.1 with the kernels that training allows",
        verdict(of("attention", "default_dropout_rate"), "within"),
    )
    yield (
        "SDPA equals the plain formula (bf16 against fp32, 2 %)",
        verdict(of("attention", "against_formula"), "within"),
    )
    yield "flash inside documents equals the mask (2 %)", verdict(of("attention", "documents"), "within")
    yield "losses of the CPU on CUDA (fp32 1e-4, bf16 5e-3)", verdict(of("losses", "losses"), "within")
    yield (
        "a plain PyTorch loop gives the run's losses (1e-4)",
        verdict(of("reference", "reference"), "within"),
    )
    yield (
        "kill and resume to the bit under `deterministic: true`",
        verdict(of("resume", "resume"), "same_to_the_bit"),
    )
    waits = of("waits", "waits")
    yield (
        "waits for the device in a step",
        ", ".join(f"{r['waits_per_step']:.0f}" for r in waits if "waits_per_step" in r) or NOT_YET,
    )
    saves = [r for r in of("save", "save") if "stall_seconds" in r]
    yield (
        "training stands still for a save, seconds",
        f"{saves[-1]['stall_seconds']:.1f}" if saves else NOT_YET,
    )
    yield (
        "device memory that a save's gather takes, GiB",
        f"{saves[-1]['more_on_device_bytes'] / GIB:.1f}" if saves else NOT_YET,
    )


def _machine(results: Results) -> list[str]:
    found = next((r for r in results if r["part"] == "machine" and r["kind"] == "versions"), None)
    if found is None:
        return [f'- Not measured: machine, versions and date are "{NOT_YET}".']
    rate = next((r for r in results if r["kind"] == "matmul"), {})
    copy = next((r for r in results if r["kind"] == "copy"), {})
    return [
        f"- Machine: {found['device']}, {found['cpus']} CPUs; torch {found.get('torch')}, megatron-core"
        f" {found.get('megatron-core')}, CUDA {found.get('CUDA')}, cuDNN {found.get('cuDNN')}; commit {found['commit'][:12]},"
        f" {found.get('date', 'date unknown')}.",
        f"- Ceilings: a product of 8192 x 8192 matrices {_figure(rate, 'tflops', '{:,.0f}')} TFLOP/s, a copy"
        f" {_figure(copy, 'gb_per_second', '{:,.0f}')} GB/s (read and written).",
    ]


if __name__ == "__main__":
    sys.exit(main())
