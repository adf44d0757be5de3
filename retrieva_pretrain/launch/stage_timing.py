"""The timing of a recipe's stages in a preflight: one copy of the model, in processes of its own on the first node.

In its own, because a model that does not fit, a kernel that fails or a collective that hangs must take nothing else with
it; and after the other checks, so that the devices are free but for what is measured.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from retrieva_pretrain.json_files import read_mapping
from retrieva_pretrain.launch.node import LOGS_VARIABLE
from retrieva_pretrain.launch.spec import JobSpec
from retrieva_pretrain.launch.tails import read_tail
from retrieva_pretrain.launch.torchrun import ON_THIS_MACHINE, kill_tree
from retrieva_pretrain.recipe.layout import model_parallel_size
from retrieva_pretrain.recipe.schema import Recipe

MOST_SECONDS = 360.0
"""What is timed by then counts; the job of a preflight has 15 minutes."""

BEGIN_SECONDS = 240.0
"""After which no further stage is begun."""

# What torchrun has told the process that starts the timing, and what would make that process's log and end its own.
_OF_A_RANK = frozenset(
    {
        *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE"),
        *("ROLE_RANK", "ROLE_WORLD_SIZE", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT", LOGS_VARIABLE),
    }
)


def stage_times(spec: JobSpec) -> Path:
    """Return the file that the timing's first process writes anew after every stage."""
    return spec.run / "stage-times.json"


def time_stages(
    spec: JobSpec, settings: Path, recipe: Recipe, seconds: float = MOST_SECONDS
) -> dict[str, Any]:
    """Time the stages on this node and return what the timing has found, `error` among it where it failed.

    Args:
        spec: of the preflight's job.
        settings: the file that holds it.
        recipe: whose stages.
        seconds: after which the timing is ended.
    """
    processes = model_parallel_size(recipe)
    if processes > spec.processes_per_node:
        return {
            "error": f"one copy of the model takes {processes} processes, and a node has {spec.processes_per_node}"
        }
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", *ON_THIS_MACHINE]
    command += [str(spec.program), "preflight-stages", str(settings)]
    log = spec.files.logs / "stage-timing.log"
    with log.open("ab") as stream:
        process = subprocess.Popen(
            command, env=_own_environment(), stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT
        )
    error = None
    try:
        if (code := process.wait(seconds)) != 0:
            error = f"{_last_line(log)} (exit code {code}; {log})"
    except subprocess.TimeoutExpired:
        error = f"not done after {seconds:.0f} s; {log}"
    finally:
        kill_tree(process)
    found = read_mapping(stage_times(spec)) or {}
    return found if error is None else {**found, "error": error}


def _own_environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name not in _OF_A_RANK and not name.startswith("TORCHELASTIC_")
    }


def _last_line(log: Path) -> str:
    """Return what our own command said last, or else whoever did: torchrun speaks after it."""
    lines = [line.strip() for line in read_tail(log).splitlines() if line.strip()]
    ours = [line.removeprefix("retrieva: ") for line in lines if line.startswith("retrieva: ")]
    return (ours or lines or ["it said nothing"])[-1][:600]
