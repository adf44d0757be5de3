"""Charts as PNG and SVG files, drawn by the same library as in the page, without a browser."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from data_prep.whole_files import write_whole
from retrieva_pretrain.errors import RetrievaError
from retrieva_pretrain.report.vega_lite import Spec

VEGA_LITE = "6.4"
_WIDTH = 860


def drawing_library() -> Any:
    """Return the module vl_convert.

    Raises:
        RetrievaError: it is not installed.
    """
    if find_spec("vl_convert") is None:
        raise RetrievaError("drawing needs vl-convert-python: pip install 'retrieva-pretrain[report]'")
    return import_module("vl_convert")


def write_picture(spec: Spec, path: Path) -> None:
    """Draw a chart into a file, on white; .png and .svg by the file's name.

    Raises:
        RetrievaError: the library is not installed, or the file's name ends otherwise.
    """
    library = drawing_library()
    fixed = {**spec, "background": "white"}
    if spec.get("width") == "container":
        fixed["width"] = _WIDTH
    if path.suffix == ".svg":
        content = library.vegalite_to_svg(fixed, vl_version=VEGA_LITE).encode()
    elif path.suffix == ".png":
        content = library.vegalite_to_png(fixed, vl_version=VEGA_LITE, scale=2)
    else:
        raise RetrievaError(f"{path}: name a picture that ends in .png or .svg")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content)
