"""`retrieva demo`, as a newcomer runs it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from retrieva_pretrain.report.metrics import read_metrics
from retrieva_pretrain.report.summary import summarise

pytestmark = [pytest.mark.slow, pytest.mark.engine]


def test_the_demo_goes_from_raw_texts_to_a_model_that_has_learnt(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "retrieva_pretrain", "demo"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        timeout=1800,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    run = tmp_path / "demo" / "runs" / "demo"
    summary = summarise(run)
    assert [stage.seq_length for stage in summary.stages] == [16, 32, 64, 128]
    assert summary.stages[-1].last_loss < summary.stages[0].first_loss - 2
    # Killed once on purpose and resumed: some steps were taken twice, none is missing.
    assert summary.starts == 2
    steps = [r["step"] for r in read_metrics(run / "metrics.jsonl") if r["kind"] == "train"]
    assert steps == list(range(1, max(steps) + 1))
    together = summary.held_out[-1]
    # 2.6 times on the machine that drew the picture; other Pythons have another standard library to read.
    assert together.after > 1.6 * together.most_frequent
    assert together.before < together.most_frequent
    for corpus in ("ja_cc", "refinedweb", "zh_wiki", "ko_wiki", "the_stack"):
        assert corpus in done.stdout
    assert (run / "loss_curve.png").stat().st_size > 10_000
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "killed: it left no record of its end" in page and "Loss over tokens" in page
    assert (tmp_path / "demo" / "exported" / "model.safetensors").is_file()
    assert re.search(r"retrieva fill-mask .*<MASK\|LLM-jp>", done.stdout)
    assert len(re.findall(r"^ +\d+\.\d\d%  .+$", done.stdout.split("fill-mask")[1], re.MULTILINE)) >= 5
    # The three commands to run next.
    for command in (r"retrieva data build", r"retrieva plan", r"torchrun .* train"):
        assert re.search(command, done.stdout)
