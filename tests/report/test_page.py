"""`retrieva report`: what the page of a run holds, also of runs that are broken or have hardly begun."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("vl_convert", reason="needs the extra `report`: vl-convert-python")

from retrieva_pretrain.bundled import recipes_folder
from retrieva_pretrain.curriculum.stages import Curriculum
from retrieva_pretrain.errors import RetrievaError
from retrieva_pretrain.recipe.base import read_base, record_base
from retrieva_pretrain.recipe.loading import dump_yaml, load_yaml
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.report.history import read_run
from retrieva_pretrain.report.jglue import find_scores, scores_chart, scores_table
from retrieva_pretrain.report.loss_curve import draw_loss_curve
from retrieva_pretrain.report.page import write_report
from retrieva_pretrain.report.run_tables import run_tables
from retrieva_pretrain.report.thinning import envelope
from tests.report.browser import browser


def line(kind: str, step: int, **fields: Any) -> str:
    return json.dumps({"kind": kind, "step": step, **fields}, ensure_ascii=False) + "\n"


def make_run(
    folder: Path, steps: int = 60, *overrides: str, loss: float | None = 3.0, evaluate: bool = True
) -> Path:
    """Write a run of the demo's recipe, killed after half of its steps and resumed."""
    recipe = load_yaml(Recipe, recipes_folder() / "demo.yaml", overrides)
    curriculum = Curriculum(recipe)
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(dump_yaml(recipe), encoding="utf-8")

    def train(step: int) -> str:
        return line("train", step, stage=0, seq_length=16, loss=None if loss is None else loss + 1 / step,
                    masked_accuracy=0.2, learning_rate=1e-3, grad_norm=None if step == 7 else 1.0, step_seconds=0.5,
                    tokens_per_second=4096.0, tflops_per_gpu=0.01, mfu=None, skipped="the loss is not finite" if step == 7 else None,
                    consumed_tokens=curriculum.consumed_tokens(step))  # fmt: skip

    text = line("start", 0, world_size=2, platform="cpu")
    text += "".join(train(step) for step in range(1, steps // 2 + 6))
    text += line("start", steps // 2, world_size=2, platform="cpu")
    text += "".join(train(step) for step in range(steps // 2 + 1, steps + 1))
    for step in (0, steps) if evaluate else ():
        for corpus in ("ja_cc", "日本語</script><b>"):
            text += line(
                "evaluation",
                step,
                corpus=corpus,
                seq_length=16,
                loss=4.0,
                masked_accuracy=0.1,
                scored_tokens=9,
            )
    (folder / "metrics.jsonl").write_text(text + '{"kind": "train", "st', encoding="utf-8")
    return folder


def test_what_was_lost_to_a_kill_counts_once_and_its_time_is_told(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run"))
    assert run.steps.tolist() == list(range(1, 61))
    assert run.seconds_taken_again == 5 * 0.5
    assert run.lines_left_out == 1
    assert [(e.kind, e.step, e.reason) for e in run.events if e.kind == "skipped"] == [
        ("skipped", 7, "the loss is not finite")
    ]
    assert [e.step for e in run.events if e.kind == "restart"] == [30]


def test_a_run_that_goes_on_from_a_checkpoint_stands_there_again(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write("\n" + line("start", 20, world_size=2, platform="cpu"))
    assert read_run(folder).last_step == 20


def test_a_restart_tells_why_the_start_before_it_ended_by_hand_and_by_a_supervisor_in_turn(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    moment = "2026-11-24T0{}:00:00+00:00".format
    stopped = {"reason": "stopped", "message": "step 5: asked to stop by SIGTERM"}
    (folder / "metrics.jsonl").write_text(
        line("start", 0, time=moment(1), previous_exit=None)
        + line("start", 5, time=moment(2), previous_exit=stopped)
        + line("start", 5, time=moment(3), previous_exit=None)  # the first of the supervisor's
        + line("start", 9, time=moment(6), previous_exit=None)
        + line("start", 9, time=moment(8), previous_exit=None),
        encoding="utf-8",
    )
    launched = {"submission": 1, "job_id": "7", "hosts": ["a"], "processes": 2}
    attempts = [
        {"event": "start", "time": moment(3), "number": 1, "step": 5, **launched},
        {
            "event": "end",
            "time": moment(4),
            "number": 1,
            "step": 9,
            "outcome": "killed",
            "reason": "signal 9",
        },
        {"event": "start", "time": moment(4), "number": 2, "step": 9, **launched},
        {"event": "end", "time": moment(5), "number": 2, "step": 9, "outcome": "failed", "reason": "no GPU"},
        {"event": "start", "time": moment(6), "number": 3, "step": 9, **launched},
    ]
    (folder / "attempts.jsonl").write_text("".join(json.dumps(a) + "\n" for a in attempts), encoding="utf-8")
    told = [(event.step, event.reason.split(",")[0]) for event in read_run(folder).events]
    assert told == [
        (5, "stopped: step 5: asked to stop by SIGTERM"),
        (5, "killed: it left no record of its end"),
        (9, "killed: signal 9"),
        (9, "failed: no GPU"),
        (9, "killed: it left no record of its end"),
    ]


def test_the_recipe_is_compared_with_what_was_recorded_of_its_base(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "runs" / "r")
    mine = tmp_path / "mine.yaml"
    mine.write_text((folder / "recipe.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "heir.yaml").write_text("base: mine.yaml\nseed: 77\n", encoding="utf-8")
    record_base(folder, tmp_path / "heir.yaml", ["optimizer.lr=0.5"])
    (folder / "recipe.yaml").write_text(
        dump_yaml(load_yaml(Recipe, tmp_path / "heir.yaml", ["optimizer.lr=0.5"])), encoding="utf-8"
    )
    record_base(folder, folder / "recipe.yaml")  # the same run, by its resolved recipe
    base = run_tables(read_run(folder), None).base
    assert base is not None and base.name == "mine.yaml"
    assert {row[0]: row[2] for row in base.table.rows} == {"seed": "77", "optimizer.lr": "0.5"}
    record_base(folder, mine)
    assert read_base(folder) is None


def test_thinning_hides_no_spike_and_leaves_out_what_is_not_finite() -> None:
    x, y = np.arange(1.0, 100_001.0), np.ones(100_000)
    y[54_321], y[5] = 99.0, math.nan
    points = envelope(x, y, 500)
    assert len(points) <= 500
    assert max(p["hi"] for p in points) == 99.0
    assert sum(p["n"] for p in points) == 99_999
    assert points[-1]["x"] == 100_000.0


def test_the_page_is_small_whole_and_tells_no_place_of_this_machine(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", 60, f"tokenizer.model={tmp_path}/secret/of/mine.model")
    written = write_report([folder], folder / "report.html")
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert len(page.encode()) < 3_000_000
    assert str(tmp_path) not in page and ".../mine.model" in page
    assert "</script><b>" not in page and "日本語" in page
    for told in (
        "the loss is not finite",
        "killed: it left no record of its end",
        "What differs from demo.yaml",
        "tokenizer.model",
    ):
        assert told in page
    pictures = {path.name for path in written[1:]}
    assert {"loss.png", "loss.svg", "grad_norm.svg", "held_out_loss.png"} <= pictures
    assert (folder / "report_pictures" / "loss.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("no step", "No training step has been recorded yet"),
        ("no evaluation", "No held-out text has been scored"),
        ("all NaN", "Learning rate"),
        ("no recipe", "no recipe.yaml"),
    ],
)
def test_a_run_that_is_broken_or_has_hardly_begun_has_a_page(tmp_path: Path, damage: str, told: str) -> None:
    folder = make_run(
        tmp_path / "run", loss=None if damage == "all NaN" else 3.0, evaluate=damage != "no evaluation"
    )
    if damage == "no step":
        (folder / "metrics.jsonl").unlink()
    if damage == "no recipe":
        (folder / "recipe.yaml").unlink()
    write_report([folder], folder / "report.html", pictures=False)
    assert told in (folder / "report.html").read_text(encoding="utf-8")


def score(folder: Path, encoder: str, tokens: int | None, accuracy: float, *, trial: bool = False) -> None:
    """Write what `retrieva evaluate` keeps of an encoder."""
    (folder / encoder).mkdir(parents=True)
    content = {"encoder": encoder, "consumed_tokens": tokens, "is_a_trial": trial,
               "tasks": {"jcqa": {"best": {"mean": {"accuracy": accuracy}}}}}  # fmt: skip
    (folder / encoder / "scores.json").write_text(json.dumps(content), encoding="utf-8")


def test_scores_stand_over_tokens_a_line_for_each_run_and_trials_are_named(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "runs" / "r")
    score(folder / "evaluations", "r-step_0000060", 5_000, 0.75)
    score(tmp_path / "ev", "r-step_0000030", 2_500, 0.5, trial=True)
    score(tmp_path / "ev", "other-step_0000030", 3_000, 0.625)
    score(tmp_path / "ev", "someones-bert", None, 0.875)
    found = find_scores([folder], [tmp_path / "ev"])
    chart = scores_chart(found, (1e3, "thousand tokens"), 10.0)
    assert chart is not None
    assert [(row["s"], row["x"], row["y"]) for row in chart.spec["datasets"]["rows"]] == [
        ("r: JCommonsenseQA acc", 2.5, 0.5),
        ("other: JCommonsenseQA acc", 3.0, 0.625),
        ("r: JCommonsenseQA acc", 5.0, 0.75),
    ]
    table = scores_table(found)
    assert table is not None
    assert table.headings == ["encoder", "tokens", "JCommonsenseQA acc"]
    assert [row[0] for row in table.rows][-1] == "someones-bert"
    assert "say nothing: r-step_0000030." in table.note and "other" not in table.note
    write_report([folder], tmp_path / "page.html", scores=[tmp_path / "ev"], pictures=False)
    assert "JGLUE over tokens" in (tmp_path / "page.html").read_text(encoding="utf-8")
    with pytest.raises(RetrievaError, match="holds no scores"):
        write_report([folder], tmp_path / "page.html", scores=[tmp_path])


def test_the_loss_curve_alone_shows_all_its_points(tmp_path: Path) -> None:
    draw_loss_curve(make_run(tmp_path / "run"), tmp_path / "curve.svg")
    svg = (tmp_path / "curve.svg").read_text(encoding="utf-8")
    longest = [
        max(path.count("L") for path in re.findall(r' d="([^"]*)"', part))
        for part in svg.split("mark-line")[1:]
    ]
    # Training loss, held-out loss, learning rate.
    assert sorted(longest)[0] >= 1 and sorted(longest)[-2:] == [59, 59]


def test_a_folder_that_is_no_run_is_refused_in_one_message(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "retrieva_pretrain", "report", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert "no run was launched or trained there" in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_real_browser_draws_the_page_without_an_error_toggles_a_curve_and_tells_a_value(
    tmp_path: Path,
) -> None:
    one = make_run(tmp_path / "a" / "runs" / "r")
    two = make_run(tmp_path / "b" / "runs" / "r", 60, "optimizer.lr=1e-3", loss=4.0)
    page = tmp_path / "two.html"
    write_report([one, two], page, pictures=False)
    assert "Settings in which the runs differ" in page.read_text(encoding="utf-8")
    with browser(tmp_path) as window:
        window.window(1000, 900)
        window.open(page)
        window.wait(
            "return waiting.size == 0 && document.querySelectorAll('.chart svg').length == all.length"
        )
        hidden = "return [...document.querySelectorAll('#loss .mark-line path')].filter(p => p.getAttribute('opacity') == 0).length"
        assert window.js(hidden) == 0

        def point_at(what: str, *, click: bool = False) -> None:
            window.js("document.querySelector('#loss').scrollIntoView()")
            x, y, width, height = window.js(
                f"const r = document.querySelector('#loss {what}').getBoundingClientRect();"
                " return [r.x, r.y, r.width, r.height]"
            )
            window.mouse(x + width / 2, y + height / 2, click=click)

        window.until(
            lambda: point_at(".role-legend-label text", click=True), hidden.replace("length", "length > 0")
        )
        told = window.until(
            lambda: point_at(".mark-line path"),
            "const t = document.querySelector('#vg-tooltip-element.visible'); return t && t.innerText",
        )
        assert "tokens" in told and any(digit.isdigit() for digit in told)
        window.window(390, 844, phone=True)
        window.open(page)
        window.wait("return waiting.size == 0")
        assert window.js("return document.documentElement.scrollWidth") <= 390
        assert window.console() == []
