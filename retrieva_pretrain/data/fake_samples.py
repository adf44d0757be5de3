"""Samples of random tokens in the shapes of a run's own, for trying a recipe out where its corpora are not."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np

from retrieva_pretrain.curriculum.hashing import key_of
from retrieva_pretrain.curriculum.stages import Curriculum
from retrieva_pretrain.data.batches import Provenance, Samples
from retrieva_pretrain.data.order import Integers
from retrieva_pretrain.recipe.layout import scored_slots
from retrieva_pretrain.recipe.schema import Recipe


class FakeSamples:
    """Stands where `TrainingSamples` does; every id of the tokenizer is as probable as any other."""

    def __init__(self, recipe: Recipe, vocab_size: int) -> None:
        self.recipe = recipe
        self._vocab_size = vocab_size
        self.positions = SimpleNamespace(curriculum=Curriculum(recipe))

    def step(self, step: int) -> Integers:
        """Return the numbers of a step's samples, int64 [global_batch_size]."""
        size = self.recipe.global_batch_size
        return np.arange(step * size, (step + 1) * size, dtype=np.int64)

    def micro_batches(
        self, step: int, data_parallel_rank: int, data_parallel_size: int, micro_batch_size: int
    ) -> Iterator[tuple[Integers, Samples]]:
        """Yield one process's micro-batches of a step; shapes as `TrainingSamples.micro_batches` gives them."""
        share = self.recipe.global_batch_size // data_parallel_size
        numbers = self.step(step)[data_parallel_rank * share : (data_parallel_rank + 1) * share]
        for start in range(0, share, micro_batch_size):
            part = numbers[start : start + micro_batch_size]
            yield part, self._samples(step, part)

    def provenance(self, number: int) -> Provenance:
        """Return a name that says that there is no corpus."""
        return Provenance("random tokens", [])

    def _samples(self, step: int, numbers: Integers) -> Samples:
        here = self.positions.curriculum.at(step)
        shape = len(numbers), here.seq_length
        draw = np.random.default_rng(int(key_of(self.recipe.seed, "fake samples", int(numbers[0]))))
        scored = scored_slots(self.recipe.masking_probability(here.index), here.seq_length)
        chosen = np.argsort(draw.random(shape), axis=1)[:, :scored]
        loss_mask = np.zeros(shape, dtype=np.float32)
        np.put_along_axis(loss_mask, chosen, np.float32(1), axis=1)
        samples = {
            "input_ids": draw.integers(0, self._vocab_size, shape),
            "labels": draw.integers(0, self._vocab_size, shape),
            "loss_mask": loss_mask,
        }
        # Two documents a sample.
        columns = np.arange(here.seq_length)
        half = here.seq_length // 2
        if self.recipe.data.reset_attention_mask:
            samples["segment_ids"] = np.tile((columns >= half).astype(np.int64), (len(numbers), 1))
        if self.recipe.data.reset_position_ids:
            samples["position_ids"] = np.tile(
                np.where(columns < half, columns, columns - half), (len(numbers), 1)
            )
        return samples
