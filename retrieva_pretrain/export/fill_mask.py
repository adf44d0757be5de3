"""The most probable tokens for the masks of a text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging

from retrieva_pretrain.errors import CheckpointError, RetrievaError
from retrieva_pretrain.export.configuration import read_configuration
from retrieva_pretrain.export.remote_code.modeling_retrieva_bert import RetrievaBertForMaskedLM


@dataclass(frozen=True)
class Answer:
    """One token for a mask."""

    token: str
    """As it reads in a text."""

    id: int
    probability: float


def fill_mask(directory: Path, text: str, top: int) -> list[list[Answer]]:
    """Return, for each mask of a text, the `top` most probable tokens, the first one first.

    The code of this package is run, not what lies in the directory. Probabilities are over all rows of the vocabulary,
    those included that stand for no token.

    Raises:
        CheckpointError: the directory holds no exported model.
        RetrievaError: the text holds no mask, is too long, or is no valid Unicode.
    """
    model_shape, _ = read_configuration(directory)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(directory)
        model, told = RetrievaBertForMaskedLM.from_pretrained(
            directory, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:  # transformers raises whatever it stumbles over
        raise CheckpointError(
            f"{directory}: cannot be loaded ({type(error).__name__}: {str(error)[:500]}); export it again."
        ) from None
    wrong = [name for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in told[kind]]
    if wrong:
        raise CheckpointError(f"{directory}: the weights are not this model's, such as {wrong[0]}")
    model.eval()
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RetrievaError(f"the text is no valid Unicode: {error}") from None
    ids = tokenizer(text, return_tensors="pt").input_ids
    if ids.shape[1] > model_shape.max_position_embeddings:
        raise RetrievaError(
            f"the text is {ids.shape[1]} tokens long; the model has {model_shape.max_position_embeddings} positions."
        )
    masks = (ids[0] == tokenizer.mask_token_id).nonzero().flatten().tolist()
    if not masks:
        raise RetrievaError(
            f"the text holds no {tokenizer.mask_token}; write one where a token is to be found."
        )
    with torch.inference_mode():
        probabilities = model(input_ids=ids).logits[0, masks].softmax(-1)[:, : len(tokenizer)]
    found = probabilities.topk(min(top, probabilities.shape[1]))
    return [
        [
            Answer(tokenizer.decode([number]), number, probability)
            for probability, number in zip(values, numbers, strict=True)
        ]
        for values, numbers in zip(found.values.tolist(), found.indices.tolist(), strict=True)
    ]
