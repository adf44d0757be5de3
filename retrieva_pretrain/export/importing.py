"""`retrieva import`: an exported model becomes a Megatron checkpoint, with which a run can begin."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data_prep.errors import DataPrepError
from data_prep.tokenizer import Tokenizer
from retrieva_pretrain.errors import CorpusError
from retrieva_pretrain.export.configuration import read_configuration
from retrieva_pretrain.export.export import PROVENANCE, SENTENCEPIECE
from retrieva_pretrain.export.own_process import own_process
from retrieva_pretrain.export.publish import refuse_existing, whole_directory
from retrieva_pretrain.export.source import OWN_TOKENIZER
from retrieva_pretrain.recipe.layout import padded_vocab_size
from retrieva_pretrain.training.checkpoint_files import write_description
from retrieva_pretrain.training.run_folder import RunFolder

_USUAL_DIVISOR = 128


def import_model(
    directory: Path, out: Path, *, tokenizer: Path | None = None, divisor: int | None = None
) -> Path:
    """Import a directory of transformers; returns the checkpoint's folder in `out`, which is there whole or not at all.

    Args:
        directory: the model.
        out: the folder to make: one of a run with a single checkpoint, of step 0, and its tokenizer.
        tokenizer: the SentencePiece model, where the directory has none.
        divisor: `make_vocab_size_divisible_by` of the recipes that begin with it.

    Raises:
        CheckpointError: the directory holds no such model, or a damaged one.
        CorpusError: there is no tokenizer, or its vocabulary does not fit.
    """
    refuse_existing(out)
    model, vocab_size = read_configuration(directory)
    opened = _tokenizer(directory, tokenizer)
    divisor = _divisor(directory, opened, vocab_size, divisor)
    with whole_directory(out) as folder:
        run = RunFolder(folder)
        checkpoint = run.checkpoint(0)
        checkpoint.mkdir(parents=True)
        with own_process() as call:
            files = call("import_weights", "import_weights", directory, model, vocab_size, checkpoint)
        shutil.copyfile(opened.path, folder / OWN_TOKENIZER)
        identity = {
            "model": model.model_dump(mode="json"),
            "tokenizer": {"model": opened.sha256, "make_vocab_size_divisible_by": divisor},
            "imported": True,
        }
        write_description(
            checkpoint,
            {
                "step": 0,
                "world_size": 1,
                "versions": {name: version(name) for name in ("torch", "megatron-core")},
                "identity": identity,
                "state": {},
                "files": files,
            },
        )
        (folder / "identity.json").write_text(json.dumps(identity, indent=1), encoding="utf-8")
        run.point_latest_to(checkpoint)
    return RunFolder(out).checkpoint(0)


def _tokenizer(directory: Path, given: Path | None) -> Tokenizer:
    try:
        return Tokenizer(given if given is not None else directory / SENTENCEPIECE)
    except DataPrepError as error:
        raise CorpusError(
            f"{error} An exported model brings {SENTENCEPIECE}; for another one: --tokenizer FILE."
        ) from None


def _divisor(directory: Path, tokenizer: Tokenizer, vocab_size: int, given: int | None) -> int:
    """Return what the embedding's rows are a multiple of, by the rule that runs follow."""
    divisor = given
    if divisor is None:
        recorded = _recorded(directory).get("make_vocab_size_divisible_by", _USUAL_DIVISOR)
        divisor = recorded if type(recorded) is int and recorded > 0 else _USUAL_DIVISOR
        if vocab_size == tokenizer.vocab_size and vocab_size % divisor:
            divisor = 1
    padded = padded_vocab_size(tokenizer.vocab_size, divisor)
    if padded != vocab_size:
        raise CorpusError(
            f"{directory / 'config.json'}: `vocab_size` is {vocab_size:,}, and the {tokenizer.vocab_size:,} pieces of"
            f" {tokenizer.path} padded to a multiple of {divisor} make {padded:,}. Give the model's own tokenizer"
            " (--tokenizer) or the multiple it was padded to (--make-vocab-size-divisible-by)."
        )
    return divisor


def _recorded(directory: Path) -> dict[str, Any]:
    try:
        content = json.loads((directory / PROVENANCE).read_bytes().decode("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
