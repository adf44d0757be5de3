"""The reference of recipes, corpora and clusters comes from the schemas, and editors that check by it are right."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest

from data_prep.corpus import CorpusConfig
from retrieva_pretrain.errors import RecipeError
from retrieva_pretrain.launch.profiles import ClusterProfile
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.recipe.yaml_tree import read_tree
from tests.conftest import REPOSITORY

RECIPES = REPOSITORY / "recipes"
SCHEMAS = {
    "recipe": (RECIPES / "recipe.schema.json", Recipe),
    "corpus": (RECIPES / "corpora" / "corpus.schema.json", CorpusConfig),
    "cluster": (RECIPES / "clusters" / "cluster.schema.json", ClusterProfile),
}
SHIPPED = [
    *((path, "recipe") for path in sorted(RECIPES.glob("*.yaml"))),
    *((path, "corpus") for path in sorted((RECIPES / "corpora").glob("*.yaml"))),
    *((path, "cluster") for path in sorted((RECIPES / "clusters").glob("*.yaml"))),
]
REFERENCE = (RECIPES / "retrievabert-1.3b.yaml").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def generator() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("reference", REPOSITORY / "tools" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["reference"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["reference"]


def problems(kind: str, content: Any) -> list[str]:
    """Return what an editor would underline."""
    schema = json.loads(SCHEMAS[kind][0].read_text(encoding="utf-8"))
    return [error.message for error in jsonschema.Draft7Validator(schema).iter_errors(content)]


def in_a_file(folder: Path, text: str) -> Path:
    path = folder / "own.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_written_reference_is_that_of_the_schemas(generator: ModuleType) -> None:
    stale = [
        str(path.relative_to(REPOSITORY))
        for path, content in generator.outputs().items()
        if not path.is_file() or path.read_text(encoding="utf-8") != content
    ]
    assert not stale, f"stale: {stale}; run `make reference`"


@pytest.mark.parametrize("kind", SCHEMAS)
def test_every_field_of_every_section_is_described(kind: str, generator: ModuleType) -> None:
    page = next(k for k in generator.KINDS if Path(k.schema).name.startswith(kind)).page
    rows = [line for line in (REPOSITORY / page).read_text(encoding="utf-8").splitlines() if "| `" in line]
    assert len(rows) > 20
    # What a source's one option means is said in the sentence above its table.
    bare = [
        row
        for row in rows
        if row.endswith("|  |") and not row.startswith(("| `text_key", "| `column", "| `document"))
    ]
    assert not bare


@pytest.mark.parametrize("kind", SCHEMAS)
def test_a_schema_is_itself_a_valid_schema(kind: str) -> None:
    jsonschema.Draft7Validator.check_schema(json.loads(SCHEMAS[kind][0].read_text(encoding="utf-8")))


@pytest.mark.parametrize(("path", "kind"), SHIPPED, ids=lambda value: getattr(value, "stem", value))
def test_every_shipped_file_names_its_schema_and_passes_it(path: Path, kind: str) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first == f"# yaml-language-server: $schema={kind}.schema.json"
    assert (path.parent / f"{kind}.schema.json").is_file()
    assert problems(kind, read_tree(path).content) == []


@pytest.mark.parametrize(
    "text",
    [
        "base: retrievabert-1.3b.yaml\n",
        "base: retrievabert-1.3b.yaml\nname: own\noptimizer: {lr: 1e-4}\ninit_from: null\n",
        "base: retrievabert-1.3b.yaml\ndata: {held_out_fraction: 0.01}\nkernels: {bias_dropout_fusion: true}\n",
        "base: retrievabert-1.3b.yaml\ndata: {blend: [{path: a, tokens: 120e9}, {path: b, tokens: 67e9}]}\n",
        "base: retrievabert-1.3b.yaml\ncurriculum: [{seq_length: 128, train_iters: 10, max_micro_batch_size: 4}]\n"
        "optimizer: {lr_warmup_fraction: 0.1}\n",
    ],
)
def test_an_heir_may_leave_out_what_its_base_says(text: str, tmp_path: Path) -> None:
    (tmp_path / "retrievabert-1.3b.yaml").write_text(REFERENCE, encoding="utf-8")
    path = in_a_file(tmp_path, text)
    load_yaml(Recipe, path)
    assert problems("recipe", read_tree(path).content) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("base: r.yaml\noptimiser: {lr: 1e-4}\n", "'optimiser' was unexpected"),
        ("base: r.yaml\noptimizer: {lr: fast}\n", "'fast' is not of type 'number'"),
        ("base: r.yaml\nmodel: {num_layers: 0}\n", "less than or equal to the minimum of 0"),
        ("base: r.yaml\nprecision: fp16\n", "'fp16' is not one of ['bf16', 'fp32']"),
        ("base: r.yaml\ncurriculum: [{seq_length: 128}]\n", "'train_iters' is a required property"),
        ("base: r.yaml\nfaults: {step_timeout: -1}\n", "-1 is less than or equal to the minimum of 0"),
        (REFERENCE.replace("global_batch_size", "batch_size"), "'global_batch_size' is a required property"),
        (REFERENCE.replace("  lr: 1.5e-4\n", ""), "'lr' is a required property"),
    ],
)
def test_an_editor_underlines_what_the_command_refuses(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(REFERENCE, encoding="utf-8")
    path = in_a_file(tmp_path, text)
    with pytest.raises(RecipeError):
        load_yaml(Recipe, path)
    assert any(said in problem for problem in problems("recipe", read_tree(path).content))


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("corpus", "name: x\nsource: wikipeda\nfiles: [a]\ntokenizer: {model: m}\n"),
        ("corpus", "name: x\nsource: wikipedia\ntokenizer: {model: m}\n"),
        (
            "corpus",
            "name: x\nsource: wikipedia\nfiles: [a]\ntokenizer: {model: m}\noptions: {varient: zh-tw}\n",
        ),
        ("corpus", "name: x\nsource: llm_jp_cc\nfiles: [a]\ntokenizer: {model: m}\noptions: {title: true}\n"),
        ("corpus", "name: x\nsource: hf_dataset\ntokenizer: {model: m}\noptions: {split: train}\n"),
        ("corpus", "name: x\nsource: hf_dataset\nfiles: [a]\ntokenizer: {model: m}\noptions: {path: p}\n"),
        ("cluster", "name: x\nscheduler: pbs\n"),
        ("cluster", "name: x\nscheduler: slurm\npartitions: gpu\n"),
        ("cluster", "name: x\nscheduler: slurm\nenvironment_variables: {NOT-A-NAME: 1}\n"),
    ],
)
def test_other_broken_files_are_underlined_and_refused(kind: str, text: str, tmp_path: Path) -> None:
    path = in_a_file(tmp_path, text)
    with pytest.raises(RecipeError):
        load_yaml(SCHEMAS[kind][1], path)
    assert problems(kind, read_tree(path).content)


def test_the_checks_of_editors_know_every_source() -> None:
    for text in ("path: owner/name", "path: folder, column: body, revision: abc"):
        content = {"name": "x", "source": "hf_dataset", "tokenizer": {"model": "m"}}
        content["options"] = dict(part.split(": ") for part in text.split(", "))
        assert problems("corpus", content) == []
