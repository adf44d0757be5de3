"""The model card (README.md) of an export, filled from the run. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from data_prep.errors import DataPrepError
from data_prep.manifest import Manifest
from retrieva_pretrain.curriculum.stages import Curriculum
from retrieva_pretrain.export.configuration import DTYPE_NAMES
from retrieva_pretrain.export.parity import ParityReport
from retrieva_pretrain.export.source import Source
from retrieva_pretrain.recipe.schema import Precision, Recipe
from retrieva_pretrain.report.summary import RunSummary, summarise


def model_card(
    source: Source,
    parity: ParityReport,
    parameters: int,
    precision: Precision,
    *,
    name: str,
    licence: str,
    languages: Sequence[str],
    scores: str | None,
) -> str:
    """Return the card in Markdown.

    Args:
        source: the checkpoint; an imported model has no recipe, and its card says so.
        parity: of the export.
        parameters: of the model.
        precision: of the exported weights.
        name: how the model is called, for the title and the snippet.
        licence: as the Hub spells it.
        languages: as the Hub spells them, `ja`.
        scores: Markdown with scores on downstream tasks; None where none are known.
    """
    template = files("retrieva_pretrain.export").joinpath("card.md.j2").read_text(encoding="utf-8")
    # Markdown, which nobody escapes; the values come from a recipe that was checked.
    environment = Environment(  # noqa: S701
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    recipe = source.recipe
    return environment.from_string(template).render(
        name=name,
        licence=licence,
        languages=languages,
        model=source.model,
        vocab_size=source.tokenizer.vocab_size,
        padded_vocab_size=source.padded_vocab_size,
        parameters=parameters,
        dtype=DTYPE_NAMES[precision],
        step=source.step,
        recipe=recipe,
        corpora=list(_corpora(recipe)) if recipe is not None else [],
        stages=list(_stages(recipe, source.step)) if recipe is not None else [],
        summary=_summary(source),
        parity=parity,
        versions=source.description["versions"],
        scores=scores,
    )


def _corpora(recipe: Recipe) -> Iterator[dict[str, Any]]:
    """Yield what is known of each corpus; its manifest need not be on this machine."""
    for corpus in recipe.data.blend:
        try:
            manifest = Manifest.load(Path(corpus.path))
        except (DataPrepError, OSError):
            manifest = None
        yield {
            "name": manifest.name if manifest is not None else corpus.path.rsplit("/", 1)[-1],
            "source": manifest.source if manifest is not None else "",
            "documents": f"{manifest.counts.documents:,}" if manifest is not None else "",
            "tokens": f"{manifest.counts.tokens:,}" if manifest is not None else "",
            "share": "" if corpus.weight is None else f"{corpus.weight:g}",
        }


def _stages(recipe: Recipe, step: int) -> Iterator[dict[str, Any]]:
    curriculum = Curriculum(recipe)
    for number, stage in enumerate(recipe.curriculum):
        first, after = curriculum.stage_steps(number)
        taken = max(0, min(step, after) - first)
        tokens = taken * recipe.global_batch_size * stage.seq_length
        yield {"length": stage.seq_length, "steps": stage.train_iters, "taken": taken, "tokens": tokens}


def _summary(source: Source) -> RunSummary | None:
    """Return the run's own figures up to this step, where its metrics are there."""
    path = source.run / "metrics.jsonl"
    if not path.exists():
        return None
    summary = summarise(source.run, source.step)
    return summary if summary.held_out else None
