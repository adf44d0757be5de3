"""The timing of a recipe's stages takes training's own steps, and goes on where a micro-batch is too large."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from retrieva_pretrain.preflight.stage_speed import planned_micro_batches
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe

SMALL = Path(__file__).resolve().parents[1] / "recipe" / "small.yaml"
PROGRAM = """
import json, resource, sys
from pathlib import Path
from retrieva_pretrain.preflight.stage_speed import StageBench, time_stage
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.training.distributed import initialize, shut_down
from retrieva_pretrain.training.stopping import StopRequests
import psutil

recipe = load_yaml(Recipe, Path("tests/recipe/small.yaml"), ["model.num_layers=2", *json.loads(sys.argv[1])])
ranks = initialize(recipe)
bench = StageBench(recipe, 400, ranks, StopRequests())
def show(index, size, fits=lambda size: True):
    speed, too_large = time_stage(bench, index, size, fits)
    print("found", json.dumps([speed.__dict__, too_large]))
show(0, 8)
show(2, 8, fits=lambda size: size <= 2)
more = int(sys.argv[2])
if more:
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + more, -1))
    show(1, 2**14)
bench.close()
shut_down()
"""


def found(shown: str) -> list[tuple[dict[str, float], list[int]]]:
    return [json.loads(line[6:]) for line in shown.splitlines() if line.startswith("found ")]


@pytest.mark.engine
def test_a_micro_batch_that_memory_does_not_hold_is_halved_until_it_does(
    run_python: Callable[..., str],
) -> None:
    first, chosen, limited = found(
        run_python(PROGRAM, arguments=[json.dumps(["precision=fp32"]), str(2**30)])
    )
    assert (first[0]["seq_length"], first[0]["micro_batch_size"], first[1]) == (32, 8, [])
    assert first[0]["tokens_per_second"] == pytest.approx(8 * 32 / first[0]["micro_batch_seconds"])
    assert first[0]["update_seconds"] >= 0  # a difference of times, cut at 0 where the machine is busy
    assert (chosen[0]["seq_length"], chosen[0]["micro_batch_size"], chosen[1]) == (128, 2, [8, 4])
    # The allocator has refused the largest: what it left behind is no obstacle for the next.
    assert limited[1]
    assert limited[1][0] == 2**14
    assert limited[0]["micro_batch_size"] == limited[1][-1] // 2
    assert limited[0]["loss"] < 10


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.parametrize(
    "layout", ["parallelism.tensor_model_parallel_size=2", "parallelism.pipeline_model_parallel_size=2"]
)
def test_one_copy_of_a_divided_model_is_timed_by_its_processes_together(
    layout: str, run_python: Callable[..., str]
) -> None:
    shown = found(run_python(PROGRAM, processes=2, arguments=[json.dumps([layout]), "0"]))
    assert len(shown) == 4
    for speed, _ in shown:
        tokens = speed["seq_length"] * speed["micro_batch_size"]
        assert speed["tokens_per_second"] == pytest.approx(tokens / speed["micro_batch_seconds"] / 2)


def test_micro_batches_are_those_of_the_planned_run() -> None:
    recipe = load_yaml(Recipe, SMALL)
    assert planned_micro_batches(recipe, 1) == [32, 32, 16, 8]
    assert planned_micro_batches(recipe, 4) == [16, 16, 16, 8]
    # A number of GPUs over which the batch does not divide is refused elsewhere.
    assert planned_micro_batches(recipe, 3) == [32, 32, 16, 8]
