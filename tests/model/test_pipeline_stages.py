"""The stages of a pipeline hold different layers and start with different weights."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.engine

REPOSITORY = Path(__file__).resolve().parents[2]

PROGRAM = """
from pathlib import Path
import torch
import torch.distributed as dist
from retrieva_pretrain.model.build import build_model
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.training.distributed import initialize, shut_down

recipe = load_yaml(Recipe, Path("recipes/demo.yaml"), ["parallelism.pipeline_model_parallel_size=3", "model.num_layers=3"])
initialize(recipe)
weight = build_model(recipe, 512).encoder.layers[0].mlp.linear_fc1.weight.detach().float()
weights = [torch.zeros_like(weight) for _ in range(3)]
dist.all_gather(weights, weight.contiguous())
# The first stage draws its embedding before its layers; it is the later ones that would start alike.
for one, other in ((0, 1), (1, 2), (0, 2)):
    assert not torch.equal(weights[one], weights[other]), (one, other)
shut_down()
"""


def test_the_layers_of_different_stages_do_not_start_alike(tmp_path: Path) -> None:
    program = tmp_path / "stages.py"
    program.write_text(PROGRAM, encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=3"]
    done = subprocess.run(
        [*command, "--master-addr=127.0.0.1", f"--master-port={port}", str(program)],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
