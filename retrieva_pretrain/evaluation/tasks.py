"""The five tasks of JGLUE and the protocol of its authors. No torch.

Protocol: github.com/yahoojapan/JGLUE, fine-tuning/README.md: learning rates 5e-5, 3e-5 and 2e-5, 3 or 4 epochs,
warm-up over a tenth of the steps, batches of 32, and the best of the grid on the development set.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["classification", "regression", "question_answering", "multiple_choice"]


@dataclass(frozen=True)
class Task:
    """One task: where its files are, what stands in them, and how it is scored."""

    name: str
    title: str
    folder: str
    """What the names of its folders begin with in a copy of JGLUE: FOLDER-v1.3/train-v1.3.json."""

    kind: Kind
    fields: tuple[str, ...]
    """Texts of an example; of multiple choice the question, then the choices."""

    max_length: int
    """Tokens of an example at most."""

    metrics: tuple[str, ...]
    """The first decides which grid point is best."""

    labels: tuple[str, ...] = ()
    """Classification: the labels in order."""


TASKS = {
    task.name: task
    for task in (
        Task(
            "marc-ja",
            "MARC-ja",
            "marc_ja",
            "classification",
            ("sentence",),
            512,
            ("accuracy",),
            ("negative", "positive"),
        ),
        Task("jsts", "JSTS", "jsts", "regression", ("sentence1", "sentence2"), 128, ("pearson", "spearman")),
        Task(
            "jnli",
            "JNLI",
            "jnli",
            "classification",
            ("sentence1", "sentence2"),
            128,
            ("accuracy",),
            ("entailment", "contradiction", "neutral"),
        ),
        Task("jsquad", "JSQuAD", "jsquad", "question_answering", ("question", "context"), 384, ("f1", "em")),
        Task(
            "jcqa",
            "JCommonsenseQA",
            "jcommonsenseqa",
            "multiple_choice",
            ("question", *(f"choice{number}" for number in range(5))),
            64,
            ("accuracy",),
        ),
    )
}

DOC_STRIDE = 128
"""JSQuAD: tokens that neighbouring windows of a long context share (transformers' run_squad.py)."""

MAX_ANSWER_TOKENS = 30
"""JSQuAD: tokens of an answer at most (the same script)."""

WARMUP_RATIO = 0.1


@dataclass(frozen=True)
class Protocol:
    """What is tried: the grid, and what is the same at all its points."""

    learning_rates: tuple[float, ...] = (5e-5, 3e-5, 2e-5)
    epochs: tuple[int, ...] = (3, 4)
    seeds: tuple[int, ...] = (42,)
    batch_size: int = 32
    bf16: bool = False
    """Mixed precision; JGLUE's own is fp32."""

    max_steps: int | None = None
    """Optimizer steps of a point at most, to try things out; None for all of its epochs."""

    max_examples: int | None = None
    """Examples of each file at most, to try things out; None for all."""

    @property
    def is_a_trial(self) -> bool:
        """Whether something is cut short, so that the scores say nothing."""
        return self.max_steps is not None or self.max_examples is not None

    def points(self) -> list[GridPoint]:
        """Return the grid, seeds innermost."""
        return [
            GridPoint(rate, epochs, seed)
            for rate in self.learning_rates
            for epochs in self.epochs
            for seed in self.seeds
        ]


@dataclass(frozen=True)
class GridPoint:
    """One fine-tuning of one task."""

    learning_rate: float
    epochs: int
    seed: int

    @property
    def name(self) -> str:
        """A name for files and lines: lr5e-05_epochs3_seed42."""
        return f"lr{self.learning_rate:g}_epochs{self.epochs}_seed{self.seed}"


@dataclass(frozen=True)
class Result:
    """What a grid point gave on the development set."""

    point: GridPoint
    scores: dict[str, float]
    """Shares between 0 and 1, or correlations."""

    seconds: float
    """Wall time of training and scoring."""

    device: str
    versions: dict[str, str] = field(default_factory=dict)
