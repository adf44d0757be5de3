"""The file of measured throughput: written whole, read strictly, held against the recipe."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from retrieva_pretrain.errors import RecipeError
from retrieva_pretrain.planning.measured import (
    Measured,
    MeasuredStage,
    model_of,
    read_measured,
    refuse_other_device,
    refuse_other_model,
    write_measured,
)
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe
from tests.conftest import REPOSITORY

REFERENCE = REPOSITORY / "recipes" / "retrievabert-1.3b.yaml"
ENTRY = MeasuredStage(
    seq_length=128,
    micro_batch_size=64,
    recompute="none",
    tensor_model_parallel_size=1,
    pipeline_model_parallel_size=1,
    tokens_per_second=55_000.0,
    seconds_per_micro_batch=8192 / 55_000,
    optimizer_seconds=0.02,
    peak_memory=30 * 2**30,
    mfu=None,
)


def reference(*overrides: str) -> Recipe:
    return load_yaml(Recipe, REFERENCE, list(overrides))


def measured(*overrides: str) -> Measured:
    model = model_of(reference(*overrides), 99_584, "cuda")
    return Measured("2026-11-27", "a GPU of the tests", {"torch": "2.11"}, model, (ENTRY,))


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    file = tmp_path / "measured.json"
    write_measured(file, measured())
    assert read_measured(file) == measured()
    content = json.loads(file.read_text())
    content["entries"][0]["of_a_later_version"] = 1
    file.write_text(json.dumps(content))
    assert read_measured(file) == measured()


def without(content: dict[str, Any], *path: str | int) -> None:
    for step in path[:-1]:
        content = content[step]  # type: ignore[index]
    del content[path[-1]]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (("device",), "device: is missing"),
        (("model", "hidden_size"), r"model\.hidden_size: is missing"),
        (("entries", 0, "tokens_per_second"), r"entries\.0\.tokens_per_second: is missing"),
        (("entries", 0), r"entries: no stage was measured"),
    ],
)
def test_a_field_that_is_missing_is_named_with_its_file(
    tmp_path: Path, path: tuple[str | int, ...], words: str
) -> None:
    file = tmp_path / "measured.json"
    write_measured(file, measured())
    content = json.loads(file.read_text())
    without(content, *path)
    file.write_text(json.dumps(content))
    with pytest.raises(RecipeError, match=rf"measured\.json: {words}"):
        read_measured(file)


@pytest.mark.parametrize("text", ["", "not json", "[]", "{", "\ufffe\x00"])
def test_a_file_that_is_none_is_refused_by_name(tmp_path: Path, text: str) -> None:
    file = tmp_path / "measured.json"
    file.write_text(text)
    with pytest.raises(RecipeError, match=r"measured\.json: is no measured\.json"):
        read_measured(file)
    with pytest.raises(RecipeError, match=r"gone\.json: cannot be read: No such file"):
        read_measured(tmp_path / "gone.json")


def test_a_speed_that_contradicts_its_time_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "measured.json"
    write_measured(file, measured())
    file.write_text(file.read_text().replace('"tokens_per_second": 55000.0', '"tokens_per_second": 5500.0'))
    with pytest.raises(RecipeError, match=r"entries\.0: 64 samples of 128 tokens in .* are 55,000 tokens/s"):
        read_measured(file)


@pytest.mark.parametrize("speed", ["0", "-1", "Infinity", '"fast"'])
def test_a_speed_that_is_none_is_refused(tmp_path: Path, speed: str) -> None:
    file = tmp_path / "measured.json"
    write_measured(file, measured())
    file.write_text(file.read_text().replace('"tokens_per_second": 55000.0', f'"tokens_per_second": {speed}'))
    with pytest.raises(RecipeError, match=r"entries\.0\.tokens_per_second: input should be"):
        read_measured(file)


def test_a_measurement_of_another_model_names_what_differs() -> None:
    refuse_other_model(measured(), reference())
    refuse_other_model(measured(), reference("optimizer.lr=1.0e-5"), 99_584)
    other = reference("model.num_layers=24", "kernels.attention_backend=unfused")
    with pytest.raises(RecipeError) as caught:
        refuse_other_model(measured(), other, 100_096)
    message = str(caught.value)
    for words in (
        "num_layers: 48 was measured, the recipe has 24",
        "padded_vocab_size: 99584 was measured, the recipe has 100096",
        "kernels.attention: sdpa was measured, the recipe has unfused",
    ):
        assert words in message
    assert "hidden_size" not in message
    with pytest.raises(RecipeError, match=r"fp8: null was measured, the recipe has hybrid"):
        refuse_other_model(
            measured(), reference("kernels.transformer_impl=transformer_engine", "kernels.fp8=hybrid")
        )


def test_a_measurement_of_another_gpu_is_refused() -> None:
    a100 = replace(measured(), device="NVIDIA A100-SXM4-80GB")
    refuse_other_device(a100, "a100s", 312.0)
    refuse_other_device(a100, "unknown", None)
    refuse_other_device(measured(), "H100 SXM", 989.0)  # nobody knows its peak
    with pytest.raises(RecipeError, match=r"of NVIDIA A100-SXM4-80GB .* 312 TFLOP/s, and H100 SXM has 989"):
        refuse_other_device(a100, "H100 SXM", 989.0)


def test_a_measurement_on_a_cpu_is_of_other_kernels() -> None:
    here = replace(measured(), model=model_of(reference(), 99_584, "cpu"))
    with pytest.raises(RecipeError, match=r"kernels\.attention: unfused was measured"):
        refuse_other_model(here, reference())
