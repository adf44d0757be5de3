"""Build the demo's tokenizer and corpora into FOLDER/demo/data, as `retrieva demo` does: python demo_data.py FOLDER."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from rich.console import Console

from retrieva_pretrain.demo import prepare_data
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "demo.yaml"

if __name__ == "__main__":
    recipe = load_yaml(Recipe, RECIPE)
    os.chdir(sys.argv[1])
    shutil.rmtree("demo", ignore_errors=True)
    Path("demo").mkdir()
    prepare_data(Console(quiet=True), recipe)
    shutil.rmtree("demo/raw")
