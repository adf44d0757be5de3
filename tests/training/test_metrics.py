"""What a run says of itself: the line, metrics.jsonl, and the figures in them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from retrieva_pretrain.curriculum.stages import Curriculum
from retrieva_pretrain.durations import format_duration
from retrieva_pretrain.launch.run_files import RunFiles
from retrieva_pretrain.launch.status import run_status
from retrieva_pretrain.planning.flops import training_flops
from retrieva_pretrain.planning.peaks import dense_bf16_tflops
from retrieva_pretrain.recipe.loading import dump_yaml, load_yaml
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.report.metrics import read_metrics
from retrieva_pretrain.training.interval import Interval, TimeLeft, Work, line
from retrieva_pretrain.training.metrics import MetricsLog
from retrieva_pretrain.training.step import StepResult

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
pytestmark = pytest.mark.engine
SHORT = [f"curriculum.{stage}.train_iters=4" for stage in range(4)]


def work(*overrides: str, peak: float | None = 989.0) -> Work:
    recipe = load_yaml(Recipe, RECIPES / "retrievabert-1.3b.yaml", list(overrides))
    return Work(Curriculum(recipe), training_flops(recipe, 99_584), 32, peak)


def result(loss: float = 2.0, scored: int = 10, norm: float = 1.0, **more: object) -> StepResult:
    figures = {"masked_accuracy": 0.5, "learning_rate": 1.2345e-4, "scored_tokens": scored, **more}
    return StepResult(loss=loss, grad_norm=norm, **figures)  # type: ignore[arg-type]


def constant(text: str) -> float:
    raise AssertionError(f"{text} is not JSON")


def test_what_is_not_finite_is_null_in_valid_json_and_read_back_as_nan(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, work(), 0, tensorboard=False)
    log.train_step(1, result(math.inf, norm=math.nan, skipped="the loss is inf"), 2.0, 0.5, 1)
    log.write("checkpoint", step=1, nested={"seconds": [math.nan, 1.0]})
    log.close()
    for text in (tmp_path / "metrics.jsonl").read_text().splitlines():
        json.loads(text, parse_constant=constant)
    train, checkpoint = read_metrics(tmp_path / "metrics.jsonl")
    assert math.isnan(train["loss"]) and math.isnan(train["grad_norm"])
    assert train["skipped"] == "the loss is inf" and train["skipped_steps"] == 1
    assert checkpoint["nested"] == {"seconds": [None, 1.0]}


def test_metrics_that_cannot_be_written_do_not_end_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    log = MetricsLog(tmp_path, work(), 0, tensorboard=False)
    for step in (1, 2):
        log.train_step(step, result(), 2.0, 0.5, 0)
    log.close()
    told = capsys.readouterr().out
    assert told.count("metrics.jsonl cannot be written: [Errno 28] No space left on device") == 1
    assert "step      2" in told or "step 2" in told


def test_a_line_averages_since_the_line_before_and_ends_with_the_stage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = MetricsLog(tmp_path, work(*SHORT), 0, tensorboard=False, log_interval=3)
    for done, (loss, scored, norm, seconds) in enumerate(
        [(4.0, 10, 1.0, 1.0), (1.0, 30, 3.0, 2.0), (math.nan, 7, math.nan, 1.0), (9.0, 10, 8.0, 2.0)], 1
    ):
        log.train_step(done, result(loss, scored, norm), seconds, 0.1 * seconds, skipped=int(done >= 3))
    log.close()
    first, second = capsys.readouterr().out.splitlines()
    # (4 x 10 + 1 x 30) / 40, the skipped step left out; 3 x 1024 x 128 tokens in 4 seconds.
    assert "step  3  stage 1/4 L128 75%  loss 1.750 acc 50.0% lr 1.23e-04 norm 2 skipped 1" in first
    assert "98.3k tok/s 3.07k/GPU" in first and "wait 10%" in first
    assert "step  4  stage 1/4 L128 100%  loss 9.000" in second and "65.5k tok/s" in second
    assert "left 0s/" in second


def test_the_line_of_the_1_3_b_run_fits_160_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = MetricsLog(tmp_path, work(), 200_000, tensorboard=False)
    log.train_step(234_567, result(10.3456, 40_000, 0.5432), 0.291, 0.002, skipped=0)
    text = capsys.readouterr().out.rstrip()
    log.train_step(234_568, result(10.3456, 40_000, 0.5432), 0.291, 0.002, skipped=0)
    log.close()
    assert len(text) <= 160, f"{len(text)}: {text}"
    record = read_metrics(tmp_path / "metrics.jsonl")[0]
    flops = log.work.of_step[1]
    assert record["tflops_per_gpu"] == pytest.approx(flops / 0.291 / 32 / 1e12)
    assert record["mfu"] == pytest.approx(record["tflops_per_gpu"] / 989)
    assert f"MFU {record['mfu']:.1%}" in text
    assert record["tokens_per_second_per_gpu"] == pytest.approx(1024 * 256 / 0.291 / 32)


def test_the_line_shows_what_the_allocator_holds_and_still_fits() -> None:
    left, interval = TimeLeft(work()), Interval()
    left.note(0.291, left.work.of_step[1])
    figures = result(10.3456, 40_000, 0.5432)
    interval.add(figures, 0.291, 0.002, 1024 * 256, left.work.of_step[1])
    held = int(71.46 * 2**30)
    text = line(interval, left, figures, 234_567, skipped=0, memory=held, reserved=held + 2**31)
    assert " 71.5/73.5G wait 1%" in text
    assert len(text) <= 160, f"{len(text)}: {text}"
    text = line(interval, left, figures, 234_567, skipped=0, memory=held, reserved=None)
    assert " 71.5G wait 1%" in text


def test_the_time_left_counts_a_later_stages_longer_steps() -> None:
    run = work(*SHORT)
    left = TimeLeft(run)
    for _ in range(3):
        left.note(10.0, run.of_step[1])
    assert left.of_stage(6) == pytest.approx(20.0)
    longer = [run.of_step[stage] / run.of_step[1] for stage in (2, 3)]
    # 2,048 positions are more than 8 times the work of 256.
    assert longer[1] > 8
    assert left.of_run(6) == pytest.approx(20.0 + 40.0 * sum(longer))
    assert left.of_run(16) == 0


def test_the_time_left_leaves_out_steps_that_compile(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, work(*SHORT), 4, tensorboard=False)
    # The second stage's four steps, and the first of the third.
    flops = log.work.of_step
    times = [50.0, 1.0, 1.0, 1.0, 80.0, flops[2] / flops[1]]
    for done, seconds in enumerate(times, 5):
        log.train_step(done, result(), seconds, 0.0, skipped=0, is_first=done in (5, 9))
    log.close()
    told = [record["seconds_left"] for record in read_metrics(tmp_path / "metrics.jsonl")]
    # Nothing else is known after the first step of all.
    assert told[0] / 50.0 == pytest.approx(told[1] + 1.0)
    assert told[3] == pytest.approx(told[1] - 2.0)
    assert told[4] == pytest.approx(told[3] - times[5])


def test_status_tells_the_time_left_that_the_line_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = MetricsLog(tmp_path, work(*SHORT), 0, tensorboard=False)
    (tmp_path / "recipe.yaml").write_text(dump_yaml(log.curriculum.recipe))
    # In stage 2, before the stages of long samples, which take longer than their tokens' share.
    for done, seconds in enumerate((9.0, 4.0, 4.0, 5.0, 7.0, 6.0), start=1):
        log.train_step(done, result(), seconds, 0.5, 0)
    log.close()
    left = run_status(RunFiles(tmp_path)).seconds_left
    assert left == pytest.approx(log.left.of_run(6))
    assert capsys.readouterr().out.rstrip().endswith(f"/{format_duration(left)}")


def test_a_device_that_is_not_known_has_no_mfu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dense_bf16_tflops("NVIDIA H100 80GB HBM3") == 989
    assert dense_bf16_tflops("NVIDIA A100-SXM4-80GB") == 312
    assert dense_bf16_tflops("NVIDIA H100 of next year") is None and dense_bf16_tflops(None) is None
    log = MetricsLog(tmp_path, work(peak=None), 0, tensorboard=False)
    log.train_step(1, result(), 2.0, 0.5, 0)
    log.close()
    assert "MFU" not in capsys.readouterr().out
    assert read_metrics(tmp_path / "metrics.jsonl")[0]["mfu"] is None
