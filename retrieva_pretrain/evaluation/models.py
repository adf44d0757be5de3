"""Which encoder is evaluated: a folder in Hugging Face's layout, or a name of the Hub. No torch."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrieva_pretrain.errors import EvaluationError

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


@dataclass(frozen=True)
class Encoder:
    """An encoder to evaluate."""

    name: str
    """For tables and folders: the folder's own name, or the Hub's."""

    source: str
    """What `from_pretrained` is given."""

    fingerprint: str
    """Changes with the weights, the configuration or the tokenizer; of a name of the Hub the name."""

    trust_remote_code: bool = False
    consumed_tokens: int | None = None
    """Positions the encoder was trained on, where its export says so."""

    @property
    def loading(self) -> dict[str, Any]:
        """Arguments of every `from_pretrained`."""
        return {"trust_remote_code": self.trust_remote_code}

    @property
    def folder_name(self) -> str:
        """The name as a folder can have it."""
        return re.sub(r"[^\w.-]+", "--", self.name).strip(".") or "encoder"


def find_encoder(source: str, *, trust_remote_code: bool = False) -> Encoder:
    """Return the encoder of a folder, or of the Hub where there is no such folder.

    Code that a folder brings along is only run where `trust_remote_code` says so, or where it is this package's own.

    Raises:
        EvaluationError: the folder holds no model, or its code is not ours and not trusted.
    """
    folder = Path(source)
    if not folder.exists():
        if source.count("/") > 1 or source.startswith((".", "/", "~")):
            raise EvaluationError(f"{source}: no such folder")
        # The Hub would be asked for half a minute about what is a mistyped run.
        if "/" in source and folder.parent.is_dir():
            there = sorted(path.name for path in folder.parent.iterdir() if path.is_dir())
            raise EvaluationError(
                f"{source}: no such folder; in {folder.parent} there are: {', '.join(there[:20]) or 'none'}"
            )
        return Encoder(source, source, source, trust_remote_code)
    if not (folder / "config.json").is_file():
        raise EvaluationError(
            f"{source}: holds no config.json, so it is no Hugging Face checkpoint; make one with retrieva export"
        )
    weights = sorted(path for pattern in _WEIGHTS for path in folder.glob(pattern))
    if not weights:
        raise EvaluationError(f"{source}: holds no weights (model.safetensors)")
    if not trust_remote_code and (foreign := _foreign_code(folder)):
        raise EvaluationError(
            f"{source}: its config.json names code of its own ({foreign}), which loading it would run. Read it, and"
            " add --trust-remote-code if you trust it"
        )
    # What `retrieva export` writes; its name there is `export.export.PROVENANCE`.
    described = _read_json(folder / "export.json") if (folder / "export.json").is_file() else {}
    return Encoder(
        folder.resolve().name,
        str(folder),
        _fingerprint(folder, weights),
        trust_remote_code=trust_remote_code or _has_code(folder),
        consumed_tokens=described.get("consumed_tokens"),
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path}: cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise EvaluationError(f"{path}: holds no JSON object")
    return content


def _code_files(folder: Path) -> set[str]:
    """Return the modules that the configuration and the tokenizer have transformers load from the folder."""
    names: set[str] = set()
    for file in ("config.json", "tokenizer_config.json"):
        if (folder / file).is_file():
            for classes in (_read_json(folder / file).get("auto_map") or {}).values():
                for reference in classes if isinstance(classes, list) else [classes]:
                    if reference:
                        # A module of another repository is written REPOSITORY--module.Class.
                        names.add(reference if "--" in reference else reference.split(".")[0] + ".py")
    return names


def _has_code(folder: Path) -> bool:
    return bool(_code_files(folder))


def _foreign_code(folder: Path) -> str | None:
    """Return the name of a file that is not byte for byte this package's own; None where all are."""
    own = Path(__file__).resolve().parents[1] / "export"
    for name in sorted(_code_files(folder)):
        ours = next(iter(own.rglob(name)), None) if "--" not in name else None
        theirs = folder / name
        if ours is None or not theirs.is_file() or ours.read_bytes() != theirs.read_bytes():
            return name
    return None


def _fingerprint(folder: Path, weights: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted({*weights, *folder.glob("*.json"), *folder.glob("*.model"), *folder.glob("*.txt")}):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()
