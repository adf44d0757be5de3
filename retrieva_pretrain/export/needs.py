"""What an export needs beside the training's packages. No torch."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from retrieva_pretrain.errors import RetrievaError

_LEAST = (4, 57)


def refuse_missing_transformers() -> None:
    """Raise RetrievaError where transformers is missing or too old."""
    try:
        found = version("transformers")
    except PackageNotFoundError:
        raise RetrievaError(
            "this needs transformers, which is not installed: pip install 'retrieva-pretrain[export]'."
        ) from None
    if tuple(map(int, found.split(".")[:2])) < _LEAST:
        raise RetrievaError(
            f"transformers {found} is too old: 4.57 or newer is needed. pip install 'retrieva-pretrain[export]'."
        )
