"""The same few training steps on the CPU and on the GPU, without dropout: losses and gradient norms side by side.

Weights are drawn on the CPU from the recipe's seed and samples are a function of theirs, so that nothing differs but the
device and the kernels. Each run is a process of its own; the CPU's runs without a GPU in sight.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from part import ROOT, Part, end_group

STEPS = 3
TOLERANCE = {"fp32": 1e-4, "bf16": 5e-3}
"""Relative difference of losses that another order of sums may make; norms may differ ten times as much."""

VOCAB_SIZE = 4000
SHAPE = (
    "model.num_layers=4",
    "model.hidden_size=256",
    "model.ffn_hidden_size=352",
    "model.num_attention_heads=8",
    "model.hidden_dropout=0.0",
    "model.attention_dropout=0.0",
    "global_batch_size=16",
    "curriculum=[{seq_length: 128, train_iters: 50, max_micro_batch_size: 8}]",
)
REHEARSED = ("model.num_layers=1", "model.hidden_size=32", "model.ffn_hidden_size=48", "global_batch_size=4")
UNFUSED = ("kernels.attention_backend=unfused",)
APART = ("data.reset_attention_mask=true", "data.reset_position_ids=true")
BF16_RUNS = {
    "default kernels": (),
    "unfused attention": UNFUSED,
    "documents apart, default kernels": APART,
    "documents apart, unfused attention": (*UNFUSED, *APART),
}
# Torch's flash kernel over documents takes no fp32.
FP32_RUNS = {
    "default kernels": (),
    "unfused attention": UNFUSED,
    "documents apart, unfused attention": (*UNFUSED, *APART),
}


def run(part: Part) -> None:
    """Compare."""
    for precision, runs in [("fp32", FP32_RUNS), ("bf16", BF16_RUNS)][: 1 if part.rehearse else 2]:
        wanted = [f"precision={precision}", *SHAPE, *(REHEARSED if part.rehearse else ())]
        if part.rehearse:
            runs = {"default kernels": ()}
        started = {
            (place, name): _start([*wanted, *more], gpu=place == "gpu")
            for name, more in runs.items()
            for place in ("cpu", "gpu")
            # Without dropout the kernels differ in nothing but rounding: one run on the CPU a kind of mask.
            if place == "gpu" or name.endswith("default kernels") or precision == "fp32"
        }
        found = {key: _finish(part, process) for key, process in started.items()}
        for name in runs:
            right = found.get(("cpu", name)) or found.get(
                ("cpu", name.replace("unfused attention", "default kernels"))
            )
            part.emit(
                "losses", name=name, precision=precision, **_compared(found["gpu", name], right, precision)
            )


def _start(overrides: list[str], *, gpu: bool) -> subprocess.Popen[bytes]:
    environment = {**os.environ} if gpu else {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        [sys.executable, "-m", "parts.losses", json.dumps(overrides)],
        cwd=Path(__file__).resolve().parents[1],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _finish(part: Part, process: subprocess.Popen[bytes]) -> Any:
    """Return [loss, gradient norm] of each step, or why there are none."""
    try:
        text = process.communicate(timeout=max(part.left - 2, 1))[0].decode(errors="replace")
    except subprocess.TimeoutExpired:
        end_group(process)
        return "time limit"
    line = next((line for line in text.splitlines() if line.startswith("found ")), None)
    return text[-800:] if line is None else json.loads(line[6:])


def _compared(found: Any, right: Any, precision: str) -> dict[str, Any]:
    if not isinstance(found, list) or not isinstance(right, list):
        return {"error": f"gpu: {found}; cpu: {right}"}

    def worst(column: int) -> float:
        pairs = zip(found, right, strict=True)
        return max(abs(one[column] - other[column]) / abs(other[column]) for one, other in pairs)

    loss, norm, tolerance = worst(0), worst(1), TOLERANCE[precision]
    return {
        "gpu": found,
        "cpu": right,
        "loss_difference": loss,
        "norm_difference": norm,
        "tolerance": tolerance,
        "within": loss <= tolerance and norm <= 10 * tolerance,
    }


def take_steps(overrides: list[str]) -> list[list[float]]:
    """Take the steps in this process; return the loss and the gradient norm of each."""
    from retrieva_pretrain.data.fake_samples import FakeSamples
    from retrieva_pretrain.model.build import build_model, wrap_model
    from retrieva_pretrain.model.optimizer import build_optimizer
    from retrieva_pretrain.recipe.layout import padded_vocab_size, stage_layouts
    from retrieva_pretrain.recipe.loading import load_yaml
    from retrieva_pretrain.recipe.schema import Recipe
    from retrieva_pretrain.training.distributed import initialize
    from retrieva_pretrain.training.step import Stepper
    from retrieva_pretrain.training.stopping import StopRequests
    from retrieva_pretrain.training.watchdog import Watchdog

    recipe = load_yaml(Recipe, ROOT / "recipes" / "demo.yaml", overrides)
    ranks = initialize(recipe)
    model = wrap_model(recipe, build_model(recipe, padded_vocab_size(VOCAB_SIZE, 128)))
    stepper = Stepper(
        recipe,
        model,
        build_optimizer(recipe, model),
        FakeSamples(recipe, VOCAB_SIZE),  # type: ignore[arg-type]
        stage_layouts(recipe, 1),
        ranks,
        run=Path("/nonexistent"),
        stop_requests=StopRequests(),
        watchdog=Watchdog(recipe.faults, 0, 1, on_hang=print),
    )
    results = [stepper.train_step(step) for step in range(STEPS)]
    return [[result.loss, result.grad_norm] for result in results]


if __name__ == "__main__":
    from retrieva_pretrain.platform.quiet import quiet_upstream

    quiet_upstream()
    print("found", json.dumps(take_steps(json.loads(sys.argv[1]))), flush=True)
    os._exit(0)
