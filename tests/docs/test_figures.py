"""Figures in the docs that follow from the code are those of the code."""

from __future__ import annotations

import math
import re

from retrieva_pretrain.curriculum.schedule import learning_rate
from retrieva_pretrain.curriculum.stages import Curriculum
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe
from tests.conftest import REPOSITORY

DOCS = REPOSITORY / "docs"
RECIPE = load_yaml(Recipe, REPOSITORY / "recipes" / "retrievabert-1.3b.yaml")


def test_the_curriculum_page_does_the_recipe_s_arithmetic() -> None:
    page = (DOCS / "curriculum.md").read_text(encoding="utf-8")
    batch, total = RECIPE.global_batch_size, Curriculum(RECIPE).total_tokens
    for number, stage in enumerate(RECIPE.curriculum, 1):
        samples = batch * stage.train_iters
        tokens = samples * stage.seq_length
        row = (
            f"| {number} | {stage.seq_length:,} | {stage.train_iters:,} | {samples:,} | {tokens:,} |"
            f" {tokens / total:.1%} |"
        ).replace("%", " %")
        assert row in page
    samples = Curriculum(RECIPE).total_samples
    assert f"{samples:,} | {total:,} | 100 % |" in page
    assert f"2 x {samples:,} = {2 * samples:,}" in page
    assert f"{total - 2 * samples:,} are" in page
    slots = [math.ceil(0.15 * stage.seq_length) for stage in RECIPE.curriculum]
    assert ", ".join(map(str, slots[:-1])) + f" and {slots[-1]}" in page


def test_the_curriculum_page_tells_the_learning_rates_at_which_stages_begin() -> None:
    page = (DOCS / "curriculum.md").read_text(encoding="utf-8")
    starts = [0, 31_000, 250_000, 442_000]
    told = [float(text) for text in re.findall(r"at (0), ([\d.e-]+), ([\d.e-]+) and ([\d.e-]+\d)", page)[0]]
    for step, rate in zip(starts, told, strict=True):
        assert math.isclose(learning_rate(RECIPE, step), rate, rel_tol=0.005, abs_tol=1e-12)


def test_every_benchmark_names_its_script_and_its_date() -> None:
    for page in sorted((DOCS / "benchmarks").glob("*.md")):
        if page.name == "README.md":
            continue
        text = page.read_text(encoding="utf-8")
        scripts = re.findall(r"benchmarks/((?:gpu/)?\w+\.py)", text)
        assert scripts, page.name
        assert all((REPOSITORY / "benchmarks" / script).is_file() for script in scripts), page.name
        assert re.search(r"20\d\d-\d\d-\d\d", text) or "Not measured" in text, page.name
        assert page.name in (DOCS / "benchmarks" / "README.md").read_text(encoding="utf-8")


def test_every_corpus_file_stands_on_the_page_of_the_corpora() -> None:
    page = (DOCS / "corpora.md").read_text(encoding="utf-8")
    for path in sorted((REPOSITORY / "recipes" / "corpora").glob("*.yaml")):
        assert f"`recipes/corpora/{path.name}`" in page
        assert (
            f"retrieva data build recipes/corpora/{path.name}" in page
            or f" recipes/corpora/{path.name} --output" in page
        )
