"""Plans by measurements: which stage takes which, what is scaled, what is added, and what is said of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from retrieva_pretrain.errors import RecipeError
from retrieva_pretrain.planning.corpora import plan_data
from retrieva_pretrain.planning.hardware import H100
from retrieva_pretrain.planning.measured import Measured, MeasuredStage, model_of, write_measured
from retrieva_pretrain.planning.plan import Plan, make_plan
from retrieva_pretrain.planning.suggest import suggest
from retrieva_pretrain.planning.throughput import micro_batch
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe
from tests.conftest import REPOSITORY
from tests.planning.retrieva_plan import retrieva_plan

REFERENCE = REPOSITORY / "recipes" / "retrievabert-1.3b.yaml"
SIZES = [f"curriculum.{i}.max_micro_batch_size={n}" for i, n in enumerate((128, 64, 32, 8))]
KEPT = [f"curriculum.{i}.recompute_granularity=null" for i in range(4)]
GATHERED_APART = "parallelism.overlap_param_gather=false"
DEVICE = "an H100 of the tests"


def reference(*overrides: str) -> Recipe:
    return load_yaml(Recipe, REFERENCE, [*SIZES, *KEPT, *overrides])


def entry(seq_length: int, samples: int, seconds: float) -> MeasuredStage:
    return MeasuredStage(
        seq_length=seq_length,
        micro_batch_size=samples,
        recompute="none",
        tensor_model_parallel_size=1,
        pipeline_model_parallel_size=1,
        tokens_per_second=seq_length * samples / seconds,
        seconds_per_micro_batch=seconds,
        optimizer_seconds=0.05,
        peak_memory=50 * 2**30,
        mfu=None,
    )


def measured(*entries: MeasuredStage) -> Measured:
    return Measured("2026-12-01", DEVICE, {}, model_of(reference(), 99_584, "cuda"), entries)


def planned(recipe: Recipe, gpus: int, found: Measured | None) -> Plan:
    return make_plan(recipe, gpus, measured=found, data=plan_data(recipe, 99_574))


def test_a_stage_that_was_measured_takes_what_was_measured() -> None:
    plan = planned(reference(), 1, measured(entry(128, 128, 0.3), entry(2048, 8, 0.4)))
    assert [speed.source for speed in plan.speeds] == ["measured", "modelled", "modelled", "measured"]
    assert plan.speeds[0].origin == f"measured on 2026-12-01, {DEVICE}"
    assert plan.speeds[0].step_seconds == pytest.approx(8 * 0.3 + 0.05)
    assert plan.speeds[3].step_seconds == pytest.approx(128 * 0.4 + 0.05)
    assert plan.speeds[1] == planned(reference(), 1, None).speeds[1]
    content = json.loads(json.dumps(plan.as_json()))
    assert content["stages"][0]["cost"]["speed"]["source"] == "measured"
    assert content["stages"][1]["cost"]["speed"]["source"] == "modelled"


def test_the_nearest_micro_batch_is_scaled_by_the_model_and_named() -> None:
    found = measured(entry(512, 8, 0.1), entry(512, 16, 0.2), entry(512, 1, 0.05))
    speed = planned(reference(), 1, found).speeds[2]
    assert speed.origin.endswith("scaled from 16 samples to 32")
    modelled = [micro_batch(reference(), 2, n, 99_584, H100).seconds for n in (16, 32)]
    assert speed.step_seconds == pytest.approx(32 * 0.2 * modelled[1] / modelled[0] + 0.05)


def test_communication_is_added_and_the_optimizer_is_shared() -> None:
    """What one GPU cannot show: gradients and weights on their way, and an eighth of the optimizer's states."""
    found = measured(entry(512, 32, 0.3))
    one, eight = (planned(reference(), gpus, found).speeds[2] for gpus in (1, 8))
    assert one.parts is not None and eight.parts is not None
    assert one.parts.network == 0 and eight.parts.network > 0
    micro_batches = 4 * 0.3
    rest = eight.step_seconds - micro_batches - eight.parts.network
    assert 0.05 / 8 < rest < 0.05
    hidden = planned(reference("parallelism.overlap_grad_reduce=true", GATHERED_APART), 8, found).speeds[2]
    assert (
        hidden.step_seconds
        < planned(
            reference("parallelism.overlap_grad_reduce=false", GATHERED_APART),
            8,
            found,
        )
        .speeds[2]
        .step_seconds
    )


@pytest.mark.parametrize(
    "other",
    [
        {"recompute": "full"},
        {"tensor_model_parallel_size": 2},
        {"pipeline_model_parallel_size": 2},
        {"seq_length": 64},
    ],
)
def test_a_measurement_of_another_layout_is_not_taken(other: dict[str, object]) -> None:
    plan = planned(reference(), 8, measured(replace(entry(512, 32, 99.0), **other)))  # type: ignore[arg-type]
    assert {speed.source for speed in plan.speeds} == {"modelled"}


def test_a_measurement_that_nothing_could_reach_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"32 samples of 512 tokens in 0\.001 s would be \d+% of the peak"):
        planned(reference(), 8, measured(entry(512, 32, 0.001)))


def test_more_memory_than_planned_is_told() -> None:
    speed, planned_peak = entry(512, 32, 0.3), planned(reference(), 1, None).memory
    assert planned_peak is not None
    assert (
        planned(reference(), 8, measured(replace(speed, peak_memory=planned_peak.step))).measured_memory == ()
    )
    (line,) = planned(reference(), 8, measured(replace(speed, peak_memory=90 * 2**30))).measured_memory
    assert "took 90.0 GiB per GPU at length 512 with 32 samples, measured" in line


def test_a_measurement_of_another_model_is_refused() -> None:
    with pytest.raises(RecipeError, match="num_layers: 48 was measured, the recipe has 24"):
        planned(reference("model.num_layers=24"), 8, measured(entry(512, 32, 0.3)))


def test_a_suggestion_follows_what_was_measured() -> None:
    """By the model large micro-batches win; where a small one was measured to be twice as fast, it does."""
    by_model = suggest(reference(), 8, H100, 99_584)
    assert by_model.stages[2].micro_batch_size >= 16
    found = measured(
        *(entry(512, n, 0.3 * n / 32 / (2 if n == 4 else 1)) for n in (1, 2, 4, 8, 16, 32, 64, 128))
    )
    by_measurement = suggest(reference(), 8, H100, 99_584, found)
    assert by_measurement.stages[2].micro_batch_size == 4
    assert by_measurement.stages[0] == by_model.stages[0]


def test_a_slow_measurement_does_not_lose_to_an_optimistic_model() -> None:
    """Everything of the length is scaled alike, so the order stays that of the model."""
    by_model = suggest(reference(), 8, H100, 99_584)
    slow = measured(entry(512, by_model.stages[2].micro_batch_size, 9.9))
    found = suggest(reference(), 8, H100, 99_584, slow)
    assert found.stages[2].micro_batch_size == by_model.stages[2].micro_batch_size
    assert found.stages[2].recompute_granularity == by_model.stages[2].recompute_granularity
    assert found.tensor_model_parallel_size == by_model.tensor_model_parallel_size


def test_the_command_line_says_what_was_measured(tmp_path: Path) -> None:
    file = tmp_path / "measured.json"
    write_measured(file, measured(entry(128, 128, 0.3), entry(512, 16, 0.16)))
    arguments = [str(REFERENCE), "--gpus", "4", "--vocab-size", "99574", *SIZES, *KEPT]
    shown = retrieva_plan(*arguments, "--measured", str(file))
    assert shown.returncode == 0, shown.stderr
    assert max(map(len, shown.stdout.splitlines())) <= 80
    words = " ".join(shown.stdout.split())
    assert f"stage 1: measured on 2026-12-01, {DEVICE} " in words
    assert "stages 2, 4: modelled" in words
    assert f"stage 3: measured on 2026-12-01, {DEVICE}, scaled from 16 samples to 32" in words
    assert "communication between the copies of the model is modelled" in words
    both = retrieva_plan(*arguments, "--measured", str(file), "--mfu", "0.4")
    assert both.returncode == 1 and "--mfu and --measured: give one of them" in both.stderr
    assumed = retrieva_plan(*arguments, "--mfu", "0.4").stdout
    assert "assumed 40% MFU of 989 TFLOP/s; not measured" in assumed
    assert "modelled" not in assumed.split("Memory of a GPU")[0]
    other = retrieva_plan(*arguments, "model.num_layers=24", "--measured", str(file))
    assert other.returncode == 1
    assert other.stderr.startswith(f"retrieva: {file}: the measurement of 2026-12-01")
    assert "num_layers: 48 was measured, the recipe has 24" in other.stderr
    found = retrieva_plan(*arguments, "--measured", str(file), "--suggest")
    assert found.returncode == 0 and max(map(len, found.stdout.splitlines())) <= 80
    divided = ["parallelism.tensor_model_parallel_size=2", "parallelism.sequence_parallel=true"]
    unused = retrieva_plan(*arguments, *divided, "--measured", str(file))
    assert f"the measurement of 2026-12-01, {DEVICE} holds no stage of this plan" in " ".join(
        unused.stdout.split()
    )
    # The measurement knows the vocabulary, where nothing else does.
    without = [word for word in arguments if word not in ("--vocab-size", "99574")]
    assert "stage 1: measured on" in " ".join(retrieva_plan(*without, "--measured", str(file)).stdout.split())
    gone = retrieva_plan(*arguments, "--measured", "gone.json")
    assert gone.returncode == 1 and "gone.json: cannot be read" in gone.stderr
    compared = retrieva_plan(
        *arguments[:1], *arguments[3:], "--measured", str(file), "--what-if", "nodes=1,2"
    )
    assert compared.returncode == 0, compared.stderr
