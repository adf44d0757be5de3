"""Examples -> what a model of transformers reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from datasets import Dataset

from retrieva_pretrain.errors import EvaluationError
from retrieva_pretrain.evaluation.tasks import DOC_STRIDE, MAX_ANSWER_TOKENS, Task

OUTSIDE = -1
"""Offset of a token that is not of the context."""

# What `answer_texts` needs and no model reads.
_OWN_COLUMNS = ("example", "starts", "ends")


def make_features(
    examples: Sequence[dict[str, Any]], task: Task, tokenizer: Any, max_length: int, *, answered: bool
) -> Dataset:
    """Return the features of examples, one an example, or one a window of a long context.

    Args:
        examples: what `read_examples` returned.
        task: their task.
        tokenizer: the model's, of transformers.
        max_length: tokens of an example at most.
        answered: question answering: whether windows are told where their answer is, for training.

    Raises:
        EvaluationError: the tokenizer cannot tell where its tokens stand, which question answering needs.
    """
    if task.kind == "question_answering" and not tokenizer.is_fast:
        raise EvaluationError(
            f"{task.title}: the tokenizer {type(tokenizer).__name__} is not a fast one and cannot tell which"
            " characters a token stands for. Leave the task out with --task"
        )
    made = Dataset.from_list([{"example": number} for number in range(len(examples))])

    def convert(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        chosen = [examples[number] for number in batch["example"]]
        if task.kind == "question_answering":
            return _windows(chosen, batch["example"], tokenizer, max_length, answered=answered)
        if task.kind == "multiple_choice":
            return _choices(chosen, task, tokenizer, max_length)
        texts = [[example[name] for example in chosen] for name in task.fields]
        features = dict(tokenizer(*texts, truncation=True, max_length=max_length))
        return {**features, "labels": [example["label"] for example in chosen]}

    return made.map(convert, batched=True, remove_columns=["example"], load_from_cache_file=False)


def _choices(
    examples: Sequence[dict[str, Any]], task: Task, tokenizer: Any, max_length: int
) -> dict[str, list[Any]]:
    """Pair each question with all of its choices: features are [examples][choices][tokens]."""
    question, *choices = task.fields
    flat = tokenizer(
        [example[question] for example in examples for _ in choices],
        [example[choice] for example in examples for choice in choices],
        truncation=True,
        max_length=max_length,
    )
    count = len(choices)
    grouped = {
        name: [values[i : i + count] for i in range(0, len(values), count)] for name, values in flat.items()
    }
    return {**grouped, "labels": [example["label"] for example in examples]}


def _windows(
    examples: Sequence[dict[str, Any]],
    numbers: Sequence[int],
    tokenizer: Any,
    max_length: int,
    *,
    answered: bool,
) -> dict[str, list[Any]]:
    """Cut contexts into overlapping windows, each behind its question."""
    # The question and the special tokens take room of every window, and a window must move on.
    stride = min(DOC_STRIDE, max_length // 4)
    features = tokenizer(
        [example["question"].lstrip() for example in examples],
        [example["context"] for example in examples],
        truncation="only_second",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    of_window = features.pop("overflow_to_sample_mapping")
    offsets = features.pop("offset_mapping")
    columns: dict[str, list[Any]] = {**features, "example": [numbers[i] for i in of_window]}
    columns["starts"], columns["ends"] = [], []
    for window, pairs in enumerate(offsets):
        of_context = [part == 1 for part in features.sequence_ids(window)]
        for column, side in (("starts", 0), ("ends", 1)):
            columns[column].append(
                [pair[side] if inside else OUTSIDE for pair, inside in zip(pairs, of_context, strict=True)]
            )
    if answered:
        columns["start_positions"], columns["end_positions"] = [], []
        for window, example in enumerate(of_window):
            text, start = examples[example]["answers"][0]
            first, last = token_span(
                columns["starts"][window], columns["ends"][window], start, start + len(text)
            )
            columns["start_positions"].append(first)
            columns["end_positions"].append(last)
    return columns


def token_span(starts: Sequence[int], ends: Sequence[int], first: int, end: int) -> tuple[int, int]:
    """Return the first and the last token that hold the characters from `first` to before `end`.

    (0, 0), the first special token, where the window does not hold all of them: SQuAD's "not here".
    """
    inside = [i for i, start in enumerate(starts) if start != OUTSIDE and ends[i] > start]
    if not inside or starts[inside[0]] > first or ends[inside[-1]] < end:
        return 0, 0
    of_answer = [i for i in inside if starts[i] < end and ends[i] > first]
    return (of_answer[0], of_answer[-1]) if of_answer else (0, 0)


def answer_texts(
    examples: Sequence[dict[str, Any]],
    windows: Dataset,
    start_logits: npt.NDArray[Any],
    end_logits: npt.NDArray[Any],
) -> dict[str, str]:
    """Return the best answer to each question over its windows, cut out of the context.

    Args:
        examples: the questions.
        windows: their features.
        start_logits: [windows, tokens]; columns past a window's own tokens are not looked at.
        end_logits: the same for the ends of answers.
    """
    best: dict[str, tuple[float, str]] = {example["id"]: (-np.inf, "") for example in examples}
    for window, feature in enumerate(windows):
        example = examples[feature["example"]]
        found = best_span(
            np.asarray(feature["starts"]),
            np.asarray(feature["ends"]),
            start_logits[window],
            end_logits[window],
        )
        if found is not None and found[0] > best[example["id"]][0]:
            score, first, end = found
            best[example["id"]] = score, example["context"][first:end]
    return {name: text for name, (_, text) in best.items()}


def best_span(
    starts: npt.NDArray[Any],
    ends: npt.NDArray[Any],
    start_logits: npt.NDArray[Any],
    end_logits: npt.NDArray[Any],
) -> tuple[float, int, int] | None:
    """Return score, first character and end of the best answer in a window; None where it holds no context.

    All arrays are [tokens], the logits possibly longer. The score is the sum of the logits of the first and the last
    token, over all pairs in order and at most MAX_ANSWER_TOKENS long.
    """
    tokens = np.flatnonzero((starts != OUTSIDE) & (ends > starts))
    if len(tokens) == 0:
        return None
    sums = start_logits[tokens][:, None] + end_logits[tokens][None, :]  # [first, last]
    length = tokens[None, :] - tokens[:, None]
    sums = np.where((length >= 0) & (length < MAX_ANSWER_TOKENS), sums, -np.inf)
    first, last = np.unravel_index(int(np.argmax(sums)), sums.shape)
    return float(sums[first, last]), int(starts[tokens[first]]), int(ends[tokens[last]])


def model_columns(features: Dataset) -> Dataset:
    """Return the features without what only `answer_texts` reads."""
    return features.remove_columns([name for name in _OWN_COLUMNS if name in features.column_names])
