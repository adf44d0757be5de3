"""`retrieva export`: a checkpoint of a run becomes a directory for transformers, once both are shown to agree."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data_prep.whole_files import sha256_file
from retrieva_pretrain import __version__
from retrieva_pretrain.bundled import sample_texts
from retrieva_pretrain.curriculum.stages import Curriculum
from retrieva_pretrain.errors import RetrievaError
from retrieva_pretrain.export import remote_code
from retrieva_pretrain.export.card import model_card
from retrieva_pretrain.export.configuration import configuration
from retrieva_pretrain.export.own_process import own_process
from retrieva_pretrain.export.parity import ParityReport, batches, compare
from retrieva_pretrain.export.publish import refuse_existing, whole_directory
from retrieva_pretrain.export.source import Source, open_source
from retrieva_pretrain.export.tokenizer import ExportedTokenizer, export_tokenizer
from retrieva_pretrain.export.tokenizer_parity import TokenizerReport, refuse_other_ids
from retrieva_pretrain.recipe.schema import Precision
from retrieva_pretrain.training.checkpoint_files import DESCRIPTION

# What an export was made of, for `retrieva import` and for people.
PROVENANCE = "export.json"
# Not `tokenizer.model`, which transformers would look at.
SENTENCEPIECE = "sentencepiece.model"

Status = Callable[[str], AbstractContextManager[Any]]


def export(
    run: Path,
    out: Path,
    *,
    status: Status,
    step: int | None = None,
    tokenizer: Path | None = None,
    scores: Path | None = None,
    licence: str = "apache-2.0",
    languages: Sequence[str] = ("ja",),
    precision: Precision | None = None,
) -> tuple[Source, ParityReport, TokenizerReport]:
    """Export a checkpoint; `out` is there, whole, when this returns, and not there where it raises.

    Args:
        run: the run's folder.
        out: the directory to make.
        status: called with what is being done, for the time of it.
        step: of the checkpoint; the newest whole one where None.
        tokenizer: the run's SentencePiece model, where it is no longer where the recipe says.
        scores: Markdown with scores on downstream tasks for the model card.
        licence: of the weights, as the Hub spells it, for the model card.
        languages: of the corpora, as the Hub spells them, for the model card.
        precision: of the exported weights; that of the checkpoint where None, so that nothing is lost.

    Raises:
        CheckpointError: there is no such checkpoint, or it is damaged.
        CorpusError: the tokenizer is not there, or is not the run's.
        ParityError: the exported model computes something else than the trained one.
        TokenizerParityError: the exported tokenizer gives other ids than the run's.
    """
    refuse_existing(out)
    evaluated = _read_scores(scores) if scores is not None else None
    with status("reading the checkpoint against its checksums"):
        source = open_source(run, step, tokenizer)
    with status("comparing the tokenizers"):
        fast = export_tokenizer(source.tokenizer)
        ids = refuse_other_ids(source.tokenizer, fast.fast, sample_texts())
    shape = (source.checkpoint, source.model, source.padded_vocab_size)
    made = batches(source.tokenizer, fast, source.model.max_position_embeddings)
    with (
        whole_directory(out) as folder,
        tempfile.TemporaryDirectory(prefix=".parity.", dir=folder) as scratch,
    ):
        sides = [Path(scratch) / name for name in ("trained", "exported")]
        for side in sides:
            side.mkdir()
        with own_process() as call:
            with status("converting the weights"):
                precision = precision or call("weights", "stored_precision", *shape)
                _write_files(source, fast, precision, folder)
                parameters = call("weights", "write_weights", *shape, precision, folder)
            with status("running the trained model"):
                call("trained_model", "write_trained_logits", *shape, precision, made, sides[0])
        # The first process and its model are gone before the second one begins.
        with own_process() as call, status("running the exported model"):
            call("exported_model", "write_exported_logits", folder, made, sides[1])
        parity = compare(made, *sides)
        (folder / PROVENANCE).write_text(
            json.dumps(_provenance(source, parity, ids), indent=2, ensure_ascii=False) + "\n",
            encoding="utf-8",
        )
        card = model_card(
            source,
            parity,
            parameters,
            precision,
            name=out.name,
            licence=licence,
            languages=languages,
            scores=evaluated,
        )
        (folder / "README.md").write_text(card, encoding="utf-8")
    return source, parity, ids


def _read_scores(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise RetrievaError(f"--scores: {path} cannot be read ({error}).") from None


def _write_files(source: Source, fast: ExportedTokenizer, precision: Precision, folder: Path) -> None:
    """Write everything but the weights that transformers reads."""
    fast.write(folder, source.model.max_position_embeddings)
    content = configuration(source.model, source.padded_vocab_size, fast.ids, precision)
    (folder / "config.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    for path in sorted(Path(remote_code.__path__[0]).glob("*_retrieva_bert.py")):
        shutil.copyfile(path, folder / path.name)
    shutil.copyfile(source.tokenizer.path, folder / SENTENCEPIECE)


def _provenance(source: Source, parity: ParityReport, ids: TokenizerReport) -> dict[str, Any]:
    identity = source.description["identity"]
    return {
        "run": source.recipe.name if source.recipe is not None else source.run.name,
        "step": source.step,
        "checkpoint_sha256": sha256_file(source.checkpoint / DESCRIPTION),
        "consumed_tokens": Curriculum(source.recipe).consumed_tokens(source.step) if source.recipe else None,
        "tokenizer_sha256": source.tokenizer.sha256,
        "make_vocab_size_divisible_by": identity["tokenizer"]["make_vocab_size_divisible_by"],
        "versions": {
            "retrieva-pretrain": __version__,
            **{name: version(name) for name in ("torch", "megatron-core", "transformers", "sentencepiece")},
        },
        "parity": parity.as_json(),
        "tokenizer_parity": asdict(ids),
    }
