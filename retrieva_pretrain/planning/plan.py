"""The plan of a run: stages, samples, tokens, learning rates and batches, before anything is started."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from retrieva_pretrain.curriculum.schedule import learning_rate
from retrieva_pretrain.curriculum.stages import Curriculum
from retrieva_pretrain.planning.corpora import CorpusPlan, plan_data
from retrieva_pretrain.planning.parameters import count_parameters
from retrieva_pretrain.recipe.layout import (
    model_parallel_size,
    padded_vocab_size,
    possible_world_sizes,
    stage_layouts,
)
from retrieva_pretrain.recipe.schema import Recipe


@dataclass(frozen=True)
class StagePlan:
    """One stage."""

    stage: int
    """Number of the stage, from 0."""

    name: str | None
    seq_length: int
    steps: int
    samples: int
    tokens: int
    """Positions: samples x sequence length."""

    first_lr: float
    last_lr: float
    micro_batch_size: int
    num_microbatches: int


@dataclass(frozen=True)
class Plan:
    """The whole run."""

    name: str
    gpus: int
    possible_gpus: tuple[int, ...]
    data_parallel_size: int
    global_batch_size: int
    steps: int
    samples: int
    tokens: int
    """Positions: samples x sequence length."""

    tokenizer: str
    """Path of the SentencePiece model."""

    vocab_size: int | None
    """None, like the next two, where neither the tokenizer nor a corpus is here to tell it."""

    padded_vocab_size: int | None
    parameters: int | None
    parameters_without_vocabulary: int
    """All but the rows of the word embedding and what the head has for each of them."""

    special_tokens_per_window: int
    """2, or 0 where the corpora carry <CLS> and <SEP> round every document."""

    stages: tuple[StagePlan, ...]
    corpora: tuple[CorpusPlan, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        return asdict(self)


def make_plan(recipe: Recipe, gpus: int | None = None) -> Plan:
    """Plan a recipe on so many GPUs, one process each; without a number on the fewest that hold the model.

    Raises:
        RecipeError: the recipe cannot be divided over them.
        CorpusError: what is here of the data does not fit the recipe.
    """
    gpus = model_parallel_size(recipe) if gpus is None else gpus
    curriculum = Curriculum(recipe)
    layouts = stage_layouts(recipe, gpus)
    stages = []
    for index, (stage, layout) in enumerate(zip(recipe.curriculum, layouts, strict=True)):
        start, end = curriculum.stage_steps(index)
        stages.append(
            StagePlan(
                stage=index,
                name=stage.name,
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
    data = plan_data(recipe)
    padded = None
    if data.vocab_size is not None:
        padded = padded_vocab_size(data.vocab_size, recipe.tokenizer.make_vocab_size_divisible_by)
    return Plan(
        name=recipe.name,
        gpus=gpus,
        possible_gpus=tuple(possible_world_sizes(recipe)),
        data_parallel_size=layouts[0].data_parallel_size,
        global_batch_size=recipe.global_batch_size,
        steps=curriculum.total_steps,
        samples=curriculum.total_samples,
        tokens=curriculum.total_tokens,
        tokenizer=recipe.tokenizer.model,
        vocab_size=data.vocab_size,
        padded_vocab_size=padded,
        parameters=None if padded is None else count_parameters(recipe.model, padded).total,
        parameters_without_vocabulary=count_parameters(recipe.model, 0).total,
        special_tokens_per_window=data.special_tokens_per_window,
        stages=tuple(stages),
        corpora=data.corpora,
    )
