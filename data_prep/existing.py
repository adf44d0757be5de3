"""Whether a corpus is there already, and whether it is the one that is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_prep.corpus import CorpusConfig
from data_prep.errors import DataPrepError
from data_prep.indexed import IndexedDataset, bin_path, idx_path
from data_prep.manifest import Manifest
from data_prep.tokenizer import Tokenizer
from data_prep.whole_files import sha256_file

_WAY_OUT = "Give --overwrite to replace it, or choose another name or output directory."


def complete_manifest(
    prefix: Path, config: CorpusConfig, files: list[Path], tokenizer: Tokenizer
) -> Manifest | None:
    """The manifest of a complete corpus made of exactly these inputs and options; None when there is none.

    Raises `DataPrepError` for a corpus of other inputs, a damaged one, and files without a manifest.
    """
    if not Manifest.path(prefix).exists():
        for path in (bin_path(prefix), idx_path(prefix)):
            if path.exists():
                raise DataPrepError(
                    f"{path} is there without a manifest: another tool made it, or a build was interrupted "
                    f"at its very end. {_WAY_OUT}"
                )
        return None
    manifest = Manifest.load(prefix)
    if differing := differences(manifest, config, files, tokenizer):
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
    manifest: Manifest, config: CorpusConfig, files: list[Path], tokenizer: Tokenizer
) -> list[str]:
    """Readable lines for everything that would make other tokens; where files lie does not count."""
    lines = []
    old, new = _flat(manifest.parameters), _flat(config.model_dump(mode="json"))
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            lines.append(f"{key}: {old.get(key)!r} -> {new.get(key)!r}")
    if manifest.tokenizer.sha256 != tokenizer.sha256:
        lines.append(f"tokenizer: {manifest.tokenizer.model} -> {tokenizer.path} (another model)")
    if manifest.tokenizer.sentencepiece_version != tokenizer.sentencepiece_version:
        versions = f"{manifest.tokenizer.sentencepiece_version} -> {tokenizer.sentencepiece_version}"
        lines.append(f"sentencepiece: {versions} (versions differ in exact score ties)")
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
    pairs = zip(manifest.files, files, strict=True)
    return [f"{path}: other content" for old, path in pairs if old.sha256 != sha256_file(path)]


def _flat(parameters: dict[str, Any]) -> dict[str, Any]:
    """What of the parameters decides the tokens; options one by one."""
    flat = {key: parameters.get(key) for key in ("source", "append_eod")}
    if parameters.get("append_eod"):
        flat["eod"] = parameters.get("eod")
    flat.update({f"options.{key}": value for key, value in (parameters.get("options") or {}).items()})
    return flat
