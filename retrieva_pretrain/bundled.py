"""The folders of YAML and script templates that come with the package."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def bundled_folder(name: str) -> Path:
    """Return a folder of the repository's top level: inside an installed package, or beside it in a checkout."""
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name


def recipes_folder() -> Path:
    """Return where the recipes lie."""
    return bundled_folder("recipes")


def sample_texts() -> list[str]:
    """Return the Japanese sample texts that the demo's corpus is made of."""
    folder = _PACKAGE.parent / "data_prep" / "samples" / "ja"
    return [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.txt"))]
