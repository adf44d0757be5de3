"""Whether the exported model computes what the trained one does: both run on the same real text, and are compared.

Both compute in fp32 with the exported weights and run on the CPU, one after the other, each in a process of its own.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from decimal import ROUND_CEILING, Context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.tokenizer import Tokenizer
from retrieva_pretrain.bundled import sample_texts
from retrieva_pretrain.errors import RetrievaError
from retrieva_pretrain.export.tokenizer import ExportedTokenizer

# Of the largest |logit|.
TOLERANCE = 1e-4
# Logits of a long text are compared at so many of its positions, or a file of them would take gigabytes.
_POSITIONS = 64
_MASKED = 0.15


class ParityError(RetrievaError):
    """The exported model computes something else; nothing is published."""


@dataclass(frozen=True)
class Batch:
    """Texts of one forward pass."""

    input_ids: npt.NDArray[np.int64]
    """[b, s]"""

    attention_mask: npt.NDArray[np.int64]
    """[b, s], 0 on padding."""

    positions: npt.NDArray[np.int64]
    """[b, m]: where logits are compared; a row with fewer tokens repeats its last one."""


@dataclass(frozen=True)
class ParityReport:
    """What the comparison found."""

    positions: int
    lengths: list[int]
    largest_logit: float
    largest_difference: float
    ties: int
    """Positions whose two largest logits are closer than twice the tolerance, and whose order differs."""

    @property
    def difference_bound(self) -> str:
        """The largest difference in two digits, rounded up: what is said to be a bound must be one."""
        return f"{float(Context(prec=2, rounding=ROUND_CEILING).create_decimal(self.largest_difference)):.2g}"

    def as_json(self) -> dict[str, Any]:
        """Return the figures under their names."""
        return {**asdict(self), "tolerance": TOLERANCE}


def batches(tokenizer: Tokenizer, exported: ExportedTokenizer, most: int, seed: int = 0) -> list[Batch]:
    """Make batches of real text: a padded one of short texts, a padded one of longer ones, and one of full length.

    `most`: positions of the model. Some tokens are masked, as in training.
    """
    stream = np.concatenate(tokenizer.encode(sample_texts()))
    draw = np.random.default_rng(seed)
    lengths = [[5, 17, 40, 64], [128, 100], [512, 257], [most]]
    made: list[Batch] = []
    start = 0
    for wanted in lengths:
        texts = []
        for length in sorted({min(one, most) for one in wanted}):
            taken = np.take(stream, range(start, start + max(length - 2, 1)), mode="wrap")
            start += length
            masked = np.where(draw.random(len(taken)) < _MASKED, exported.ids["mask_token"], taken)
            texts.append([exported.ids["cls_token"], *masked.tolist(), exported.ids["sep_token"]])
        if not made or len(texts[-1]) > made[-1].input_ids.shape[1]:
            made.append(_padded(texts, exported.ids["pad_token"]))
    return made


def _padded(texts: list[list[int]], pad: int) -> Batch:
    longest = max(map(len, texts))
    most = min(longest, _POSITIONS)
    ids = np.full((len(texts), longest), pad, dtype=np.int64)
    mask = np.zeros_like(ids)
    positions = np.zeros((len(texts), most), dtype=np.int64)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = text
        mask[row, : len(text)] = 1
        positions[row] = np.linspace(0, len(text) - 1, most).round()
    return Batch(ids, mask, positions)


def compare(made: list[Batch], trained: Path, exported: Path) -> ParityReport:
    """Compare the logits that the two models left in two folders, one file a batch ([b, m, vocabulary]).

    Raises:
        ParityError: they differ by more than `TOLERANCE` of the largest |logit|, or disagree on the most probable
            token where the two largest logits are more than twice that apart.
    """
    largest, difference, ties, count = 0.0, 0.0, 0, 0
    for number, batch in enumerate(made):
        ours = np.load(trained / f"{number}.npy", mmap_mode="r")
        theirs = np.load(exported / f"{number}.npy", mmap_mode="r")
        length = batch.input_ids.shape[1]
        if ours.shape != theirs.shape:
            raise ParityError(f"the exported model gives logits {theirs.shape}, the trained one {ours.shape}")
        scale = float(np.abs(ours).max())
        apart = float(np.abs(ours - theirs).max())
        # Written so that a NaN on either side is no agreement.
        if not (apart <= TOLERANCE * scale and np.isfinite(scale)):
            raise ParityError(
                f"the exported model's logits differ by {apart:.3g} at length {length}, where the largest |logit| is"
                f" {scale:.3g}; at most {TOLERANCE:g} of it is allowed. Nothing was published."
            )
        two = np.partition(ours, -2, axis=-1)[..., -2:]
        unlike = ours.argmax(-1) != theirs.argmax(-1)
        if (unlike & (two[..., 1] - two[..., 0] > 2 * TOLERANCE * scale)).any():
            raise ParityError(
                f"the exported model finds another token most probable at length {length}. Nothing was published."
            )
        largest, difference = max(largest, scale), max(difference, apart)
        ties += int(unlike.sum())
        count += batch.positions.size
    lengths = sorted({int(n) for batch in made for n in batch.attention_mask.sum(1)})
    return ParityReport(count, lengths, largest, difference, ties)
