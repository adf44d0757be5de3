"""The plan of a run: stages, samples, tokens, learning rates and batches, from the recipe alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from data_prep.errors import DataPrepError
from data_prep.manifest import Manifest
from data_prep.tokenizer import Tokenizer
from retrieva_pretrain.curriculum.schedule import learning_rate
from retrieva_pretrain.curriculum.stages import Curriculum
from retrieva_pretrain.planning.parameters import count_parameters
from retrieva_pretrain.recipe.layout import check_vocabulary, padded_vocab_size, stage_layouts
from retrieva_pretrain.recipe.schema import Recipe


@dataclass(frozen=True)
class StagePlan:
    """One stage."""

    stage: int
    seq_length: int
    steps: int
    samples: int
    tokens: int
    first_lr: float
    last_lr: float
    micro_batch_size: int
    num_microbatches: int


@dataclass(frozen=True)
class CorpusPlan:
    """One corpus; the figures are None where it is not on this machine yet."""

    path: str
    weight: float | None
    documents: int | None
    tokens: int | None


@dataclass(frozen=True)
class Plan:
    """The whole run."""

    name: str
    gpus: int
    data_parallel_size: int
    steps: int
    samples: int
    tokens: int
    """Positions: samples x sequence length."""

    parameters: int | None
    """None where the tokenizer, which decides the vocabulary, is not here."""

    stages: list[StagePlan]
    corpora: list[CorpusPlan]

    def as_json(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        return asdict(self)


def make_plan(recipe: Recipe, gpus: int) -> Plan:
    """Plan a recipe on so many GPUs (processes).

    Raises RecipeError where it cannot be divided over them.
    """
    curriculum = Curriculum(recipe)
    layouts = stage_layouts(recipe, gpus)
    stages = []
    for index, (stage, layout) in enumerate(zip(recipe.curriculum, layouts, strict=True)):
        start, end = curriculum.stage_steps(index)
        stages.append(
            StagePlan(
                stage=index,
                seq_length=stage.seq_length,
                steps=stage.train_iters,
                samples=curriculum.consumed_samples(end) - curriculum.consumed_samples(start),
                tokens=curriculum.consumed_tokens(end) - curriculum.consumed_tokens(start),
                first_lr=learning_rate(recipe, start),
                last_lr=learning_rate(recipe, end - 1),
                micro_batch_size=layout.micro_batch_size,
                num_microbatches=layout.num_microbatches,
            )
        )
    return Plan(
        name=recipe.name,
        gpus=gpus,
        data_parallel_size=layouts[0].data_parallel_size,
        steps=curriculum.total_steps,
        samples=curriculum.total_samples,
        tokens=curriculum.total_tokens,
        parameters=_parameters(recipe),
        stages=stages,
        corpora=[_corpus(entry.path, entry.weight) for entry in recipe.data.blend],
    )


def render(plan: Plan) -> RenderableType:
    """Lay a plan out for a terminal."""
    stages = Table(title=f"{plan.name} on {plan.gpus} GPUs", title_justify="left")
    for name in ("stage", "length", "steps", "samples", "tokens", "first lr", "last lr", "batch"):
        stages.add_column(name, justify="right")
    for s in plan.stages:
        stages.add_row(
            str(s.stage + 1),
            str(s.seq_length),
            f"{s.steps:,}",
            _short(s.samples),
            _short(s.tokens),
            f"{s.first_lr:.2e}",
            f"{s.last_lr:.2e}",
            f"{s.micro_batch_size} x {s.num_microbatches}",
        )
    stages.add_section()
    stages.add_row("all", "", f"{plan.steps:,}", _short(plan.samples), _short(plan.tokens), "", "", "")
    model = (
        "parameters: unknown, the tokenizer is not here"
        if plan.parameters is None
        else f"parameters: {plan.parameters:,}"
    )
    corpora = Table(title="Corpora", title_justify="left")
    corpora.add_column("path")
    for name in ("weight", "documents", "tokens"):
        corpora.add_column(name, justify="right")
    for c in plan.corpora:
        here = ("not built yet", "") if c.tokens is None else (f"{c.documents:,}", _short(c.tokens))
        corpora.add_row(c.path, "by tokens" if c.weight is None else f"{c.weight:g}", *here)
    return Group(
        stages,
        Text(
            f"data parallel {plan.data_parallel_size} (batch: micro-batch size x accumulated per GPU); {model}\n"
        ),
        corpora,
    )


def _parameters(recipe: Recipe) -> int | None:
    try:
        vocab_size = Tokenizer(Path(recipe.tokenizer.model)).vocab_size
    except DataPrepError:
        return None
    check_vocabulary(recipe, vocab_size)
    padded = padded_vocab_size(vocab_size, recipe.tokenizer.make_vocab_size_divisible_by)
    return count_parameters(recipe.model, padded).total


def _corpus(path: str, weight: float | None) -> CorpusPlan:
    try:
        counts = Manifest.load(Path(path)).counts
    except DataPrepError:
        return CorpusPlan(path, weight, None, None)
    return CorpusPlan(path, weight, counts.documents, counts.tokens)


def _short(number: int) -> str:
    """Return a number of up to four digits and its unit: 187.3 B."""
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return str(number)
