"""Held-out text of each corpus: loss and accuracy on the masked tokens, with dropout off."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from megatron.core.distributed import DistributedDataParallel

from retrieva_pretrain.data.batches import HeldOutSamples, Samples
from retrieva_pretrain.recipe.layout import scored_slots
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.training.batch import MicroBatch, host_batch, to_device
from retrieva_pretrain.training.distributed import Ranks
from retrieva_pretrain.training.step import run_micro_batches


@dataclass(frozen=True)
class HeldOutScores:
    """Scores of one corpus's held-out samples."""

    loss: float
    """Nats a scored token."""

    masked_accuracy: float

    most_frequent_accuracy: float
    """What always guessing the most frequent masked token of these very samples would score: the best that a
    constant answer can do."""

    scored_tokens: int


class Evaluator:
    """Scores the model on the same samples, with the same masks, every time it is asked."""

    def __init__(self, recipe: Recipe, held_out: HeldOutSamples, ranks: Ranks) -> None:
        self.recipe = recipe
        self.held_out = held_out
        self.ranks = ranks

    def evaluate(
        self, model: DistributedDataParallel, seq_length: int, micro_batch_size: int
    ) -> dict[str, HeldOutScores]:
        """Score every corpus that has held-out text; every process calls it and gets the same answer."""
        model.eval()
        try:
            return {
                corpus: self._evaluate_corpus(model, corpus, seq_length, micro_batch_size)
                for corpus in self.held_out.corpora()
            }
        finally:
            model.train()

    def _evaluate_corpus(
        self, model: DistributedDataParallel, corpus: str, seq_length: int, micro_batch_size: int
    ) -> HeldOutScores:
        samples = self.held_out.samples(corpus, seq_length)
        # Every data-parallel rank takes the same number of passes: its own samples first, then samples that
        # weigh nothing, so that pipeline and tensor ranks stay together.
        size = min(micro_batch_size, -(-len(samples["input_ids"]) // self.ranks.data_parallel_size))
        batches = list(self._share(samples, size))
        with torch.no_grad():  # `forward_only` alone still records what backward would need
            scores = run_micro_batches(
                model,
                iter(batches),
                seq_length=seq_length,
                micro_batch_size=size,
                num_microbatches=len(batches),
                forward_only=True,
            )
        return HeldOutScores(
            loss=scores.mean_loss,
            masked_accuracy=scores.accuracy,
            most_frequent_accuracy=_most_frequent_share(samples),
            scored_tokens=int(scores.tokens),
        )

    def _share(self, samples: Samples, size: int) -> Iterator[MicroBatch]:
        slots = scored_slots(self.recipe.evaluation.masking_probability, samples["input_ids"].shape[1])
        count = len(samples["input_ids"])
        stride = size * self.ranks.data_parallel_size
        for start in range(0, count, stride):
            numbers = start + self.ranks.data_parallel_rank * size + np.arange(size)
            rows = {name: values[numbers % count] for name, values in samples.items()}
            rows["loss_mask"] = rows["loss_mask"] * (numbers < count)[:, None].astype(np.float32)
            yield to_device(host_batch(rows, start, slots))


def _most_frequent_share(samples: Samples) -> float:
    scored = samples["labels"][samples["loss_mask"].astype(np.bool_)]
    return float(np.bincount(scored).max() / scored.size) if scored.size else 0.0
