"""One grid point: a pretrained encoder with a fresh head is trained on a task and scored on its development set.

transformers' Trainer does the training, as in the scripts of JGLUE's authors.
"""

from __future__ import annotations

import math
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorForMultipleChoice,
    DataCollatorWithPadding,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)

from retrieva_pretrain.errors import EvaluationError
from retrieva_pretrain.evaluation import metrics
from retrieva_pretrain.evaluation.features import answer_texts, make_features, model_columns
from retrieva_pretrain.evaluation.models import Encoder
from retrieva_pretrain.evaluation.reading import TaskFiles, read_examples
from retrieva_pretrain.evaluation.tasks import WARMUP_RATIO, GridPoint, Protocol, Result, Task

_MODELS = {
    "classification": AutoModelForSequenceClassification,
    "regression": AutoModelForSequenceClassification,
    "question_answering": AutoModelForQuestionAnswering,
    "multiple_choice": AutoModelForMultipleChoice,
}


@dataclass(frozen=True)
class Device:
    """How the work is laid on the device; none of it changes what a batch is."""

    batch_size: int
    """Examples in one forward pass; gradients of several are added up to the protocol's batch."""

    gradient_checkpointing: bool = False
    progress: bool = False
    """Whether Trainer's own bar is shown."""


class PreparedTask:
    """A task's features for one model, made once for all grid points."""

    def __init__(self, encoder: Encoder, task: Task, files: TaskFiles, protocol: Protocol) -> None:
        """Read the files and turn them into tokens.

        Raises:
            EvaluationError: a file or the tokenizer does not fit.
        """
        self.task = task
        self.encoder = encoder
        self.tokenizer: Any = AutoTokenizer.from_pretrained(encoder.source, **encoder.loading)
        config = AutoConfig.from_pretrained(encoder.source, **encoder.loading)
        self.max_length = min(task.max_length, longest_input(config, self.tokenizer))
        self.examples = read_examples(files.valid, task, protocol.max_examples)
        make = {"task": task, "tokenizer": self.tokenizer, "max_length": self.max_length}
        self.train = make_features(
            read_examples(files.train, task, protocol.max_examples), answered=True, **make
        )
        self.valid = make_features(self.examples, answered=False, **make)

    def scores(self, predictions: Any, labels: Any) -> dict[str, float]:
        """Return the task's metrics of what Trainer.predict gave for the development set."""
        if self.task.kind == "question_answering":
            start_logits, end_logits = predictions[:2]
            texts = answer_texts(self.examples, self.valid, start_logits, end_logits)
            references = {
                example["id"]: [text for text, _ in example["answers"]] for example in self.examples
            }
            return metrics.question_answering(texts, references)
        logits = predictions[0] if isinstance(predictions, tuple) else predictions
        if self.task.kind == "regression":
            return metrics.correlations(logits.reshape(-1), labels)
        return metrics.accuracy(np.argmax(logits, axis=-1), labels)


def longest_input(config: Any, tokenizer: Any) -> int:
    """Return the tokens a model can read: its positions, less those that RoBERTa keeps for padding."""
    positions = getattr(config, "max_position_embeddings", None) or 2**30
    if getattr(config, "model_type", "") in ("roberta", "xlm-roberta", "camembert"):
        positions -= 2
    return min(positions, getattr(tokenizer, "model_max_length", None) or 2**30)


def fine_tune(prepared: PreparedTask, protocol: Protocol, point: GridPoint, device: Device) -> Result:
    """Train and score one grid point.

    Raises:
        EvaluationError: the model has no such head, or its loss is not a number.
    """
    started = time.perf_counter()
    # Before the model is built: its head is drawn.
    set_seed(point.seed)
    model = _load(prepared)
    with tempfile.TemporaryDirectory(prefix="retrieva-evaluate-") as scratch:
        trainer = _trainer(prepared, protocol, point, device, model, scratch)
        done = trainer.train()
        if not math.isfinite(done.training_loss):
            raise EvaluationError(
                f"{prepared.encoder.name}, {prepared.task.title}, {point.name}: the loss is not a number; look at the"
                " weights"
            )
        output = trainer.predict(model_columns(prepared.valid))
    return Result(
        point,
        prepared.scores(output.predictions, output.label_ids),
        seconds=time.perf_counter() - started,
        device=str(trainer.args.device),
        versions={name: version(name) for name in ("torch", "transformers")},
    )


def _trainer(
    prepared: PreparedTask,
    protocol: Protocol,
    point: GridPoint,
    device: Device,
    model: torch.nn.Module,
    scratch: str,
) -> Trainer:
    """Return transformers' trainer with JGLUE's protocol; `scratch` is a folder that it wants to have."""
    steps_an_epoch = math.ceil(len(prepared.train) / protocol.batch_size)
    steps = min(steps_an_epoch * point.epochs, protocol.max_steps or 2**62)
    choices = prepared.task.kind == "multiple_choice"
    collator = (DataCollatorForMultipleChoice if choices else DataCollatorWithPadding)(
        tokenizer=prepared.tokenizer, pad_to_multiple_of=8
    )
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=scratch,
            learning_rate=point.learning_rate,
            max_steps=steps,
            warmup_steps=math.ceil(steps * WARMUP_RATIO),
            lr_scheduler_type="linear",
            weight_decay=0.0,
            per_device_train_batch_size=device.batch_size,
            per_device_eval_batch_size=device.batch_size,
            gradient_accumulation_steps=protocol.batch_size // device.batch_size,
            gradient_checkpointing=device.gradient_checkpointing,
            bf16=protocol.bf16,
            seed=point.seed,
            data_seed=point.seed,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=not device.progress,
        ),
        train_dataset=model_columns(prepared.train),
        data_collator=collator,
    )
    # It prints figures on the standard output, which is for ours.
    trainer.remove_callback(PrinterCallback)
    return trainer


def _load(prepared: PreparedTask) -> torch.nn.Module:
    task, encoder = prepared.task, prepared.encoder
    heads: dict[str, Any] = {}
    if task.kind == "classification":
        heads = {"num_labels": len(task.labels), "problem_type": "single_label_classification"}
    elif task.kind == "regression":
        heads = {"num_labels": 1, "problem_type": "regression"}
    try:
        # fp32: transformers 5 would otherwise train in the bf16 that a checkpoint is stored in.
        return _MODELS[task.kind].from_pretrained(  # type: ignore[no-any-return]
            encoder.source, dtype=torch.float32, **encoder.loading, **heads
        )
    except (ValueError, OSError, RuntimeError) as error:
        raise EvaluationError(
            f"{encoder.source}: cannot be loaded for {task.title}: {str(error).strip().splitlines()[0]}"
        ) from None


def quiet() -> None:
    """Leave the terminal to our own lines: no bars of loading and converting, no advice."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
