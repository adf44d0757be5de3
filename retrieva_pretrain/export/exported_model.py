"""The exported side of the parity check: what transformers loads from the directory, with the code that lies there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from retrieva_pretrain.errors import CheckpointError
from retrieva_pretrain.export.parity import TOLERANCE, Batch, ParityError


def write_exported_logits(exported: Path, made: list[Batch], folder: Path) -> None:
    """Run the exported model in fp32 and write each batch's logits [b, m, vocabulary] as `folder/N.npy`.

    The shortest batch is run with eager attention too, and must agree.
    """
    # transformers copies the code of a model beside its caches; that of an unfinished export must not stay there.
    os.environ.update(HF_MODULES_CACHE=str(folder / "modules"), HF_HUB_OFFLINE="1")
    import torch
    from transformers import AutoModelForMaskedLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()

    def load(attention: str) -> Any:
        model, told = AutoModelForMaskedLM.from_pretrained(
            exported,
            trust_remote_code=True,
            dtype=torch.float32,
            attn_implementation=attention,
            output_loading_info=True,
        )
        wrong = [
            name for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in told[kind]
        ]
        if wrong:
            raise CheckpointError(
                f"the exported weights do not fit the exported code: {sorted(map(str, wrong))[:5]}"
            )
        return model.eval()

    def logits(model: Any, batch: Batch) -> Any:
        with torch.inference_mode():
            out = model(
                input_ids=torch.from_numpy(batch.input_ids),
                attention_mask=torch.from_numpy(batch.attention_mask),
            ).logits
        rows = torch.arange(len(out)).unsqueeze(1)
        return out[rows, torch.from_numpy(batch.positions)].numpy()

    model = load("sdpa")
    for number, batch in enumerate(made):
        np.save(folder / f"{number}.npy", logits(model, batch))
    model.set_attn_implementation("eager")
    first, eager = np.load(folder / "0.npy"), logits(model, made[0])
    if not np.abs(first - eager).max() <= TOLERANCE * np.abs(first).max():
        raise ParityError(
            "the exported model differs between SDPA and eager attention. Nothing was published."
        )
