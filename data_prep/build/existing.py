"""Whether a corpus is there already, and whether it is the one that is asked for."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from data_prep.build.plan import deciding_parameters
from data_prep.corpus import CorpusConfig
from data_prep.errors import DataPrepError
from data_prep.indexed import IndexedDataset, bin_path, idx_path
from data_prep.manifest import Manifest
from data_prep.tokenizer import Tokenizer
from data_prep.whole_files import sha256_file

_WAY_OUT = "Give --overwrite to replace it, or choose another name or output directory."


def only_ours(prefix: Path, *, building: bool) -> None:
    """Refuse files under the corpus's name that no build of ours is writing.

    Raises `DataPrepError` naming the file.
    """
    if building or Manifest.path(prefix).exists():
        return
    for path in (bin_path(prefix), idx_path(prefix)):
        if path.exists():
            raise DataPrepError(f"{path} is there without a manifest: another tool made it. {_WAY_OUT}")


def complete_manifest(
    prefix: Path,
    config: CorpusConfig,
    files: list[Path],
    tokenizer: Tokenizer,
    contamination: str | None,
    *,
    building: bool,
) -> Manifest | None:
    """The manifest of a complete corpus made of exactly these inputs and options; None when there is none.

    `building` says that an unfinished build is there: files without a manifest are then what a kill left
    of its last step. Raises `DataPrepError` for a corpus of other inputs, a damaged one, and files of others.
    """
    if not Manifest.path(prefix).exists():
        only_ours(prefix, building=building)
        return None
    try:
        manifest = Manifest.load(prefix)
    except DataPrepError as error:
        raise DataPrepError(f"{error} {_WAY_OUT}") from None
    if differing := differences(manifest, config, files, tokenizer, contamination):
        lines = "\n".join(f"  {line}" for line in differing)
        raise DataPrepError(f"{prefix}: a corpus of other inputs is there:\n{lines}\n{_WAY_OUT}")
    try:
        dataset = IndexedDataset(prefix)
    except DataPrepError as error:
        raise DataPrepError(f"{error} {_WAY_OUT}") from None
    if dataset.num_tokens != manifest.counts.tokens or dataset.num_documents != manifest.counts.documents:
        raise DataPrepError(f"{prefix}: its files do not hold what its manifest says. {_WAY_OUT}")
    return manifest


def differences(
    manifest: Manifest,
    config: CorpusConfig,
    files: list[Path],
    tokenizer: Tokenizer,
    contamination: str | None,
) -> list[str]:
    """Readable lines for everything that would make other tokens; where files lie does not count."""
    lines = []
    old = deciding_parameters(manifest.parameters)
    new = deciding_parameters(config.model_dump(mode="json"))
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            lines.append(f"{key}: {old.get(key)!r} -> {new.get(key)!r}")
    if manifest.tokenizer.sha256 != tokenizer.sha256:
        lines.append(f"tokenizer: {manifest.tokenizer.model} -> {tokenizer.path} (another model)")
    if manifest.tokenizer.sentencepiece_version != tokenizer.sentencepiece_version:
        versions = f"{manifest.tokenizer.sentencepiece_version} -> {tokenizer.sentencepiece_version}"
        lines.append(f"sentencepiece: {versions} (versions differ in exact score ties)")
    if manifest.contamination != contamination:
        lines.append("decontaminate: other evaluation texts")
    return lines or _file_differences(manifest, files)


def _file_differences(manifest: Manifest, files: list[Path]) -> list[str]:
    if len(manifest.files) != len(files):
        return [f"files: {len(manifest.files)} -> {len(files)}"]
    lines = []
    for old, path in zip(manifest.files, files, strict=True):
        size = path.stat().st_size
        if old.bytes != size:
            lines.append(f"{path}: {old.bytes:,} -> {size:,} bytes")
    if lines:
        return lines
    # Sizes first: hashing terabytes to find that a file has grown would take hours.
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as executor:
        sums = list(executor.map(sha256_file, files))
    pairs = zip(manifest.files, files, sums, strict=True)
    return [f"{path}: other content" for old, path, sha256 in pairs if old.sha256 != sha256]
