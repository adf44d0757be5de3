"""One process of a preflight: measures, tells the first process, which judges."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from data_prep.errors import DataPrepError
from data_prep.indexed import bin_path
from data_prep.verify import verify
from retrieva_pretrain import platform
from retrieva_pretrain.data.corpora import Corpora
from retrieva_pretrain.errors import RetrievaError
from retrieva_pretrain.platform.versions import cuda_version, nccl_version
from retrieva_pretrain.preflight import machine, rates
from retrieva_pretrain.preflight.parity import layer_parity
from retrieva_pretrain.recipe.schema import Recipe

Measures = dict[str, Any]


def measure(folder: Path, token: str, recipe: Recipe | None) -> list[Measures] | None:
    """Measure on all processes together; return what each has found, by rank, on the first and None elsewhere.

    Args:
        folder: a folder that all nodes should see.
        token: what the file `token` in it should hold.
        recipe: whose corpora are read, if any.
    """
    here = platform.current()
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    here.prepare(local_rank)
    dist.init_process_group(here.distributed_backend, timeout=timedelta(minutes=5))
    try:
        talk = dist.new_group(backend="gloo", timeout=timedelta(minutes=5))
        found = _alone(folder, token, recipe, local_rank)
        found |= _together(talk)
        everything: list[Measures] = [{} for _ in range(dist.get_world_size())]
        dist.all_gather_object(everything, found, group=talk)
        return everything if dist.get_rank() == 0 else None
    finally:
        dist.destroy_process_group()
        here.release_memory()  # for what is timed next on this device


def _alone(folder: Path, token: str, recipe: Recipe | None, local_rank: int) -> Measures:
    """What a process finds by itself. A node's first process also looks at files."""
    found: Measures = {
        "rank": dist.get_rank(),
        "local_rank": local_rank,
        "host": socket.gethostname(),
        "node": int(os.environ.get("GROUP_RANK", "0")),
        "platform": platform.current().name,
        "versions": {**machine.versions(), "CUDA": cuda_version(), "NCCL": nccl_version()},
        "matmul_tflops": _tried(rates.matmul_tflops),
        "copy_gb_per_second": _tried(rates.copy_gb_per_second),
        # Asked after the arithmetic, while the clocks are still those of work.
        "gpu": machine.gpu_health(local_rank),
    }
    if local_rank == 0:
        found["sign"] = machine.leave_a_sign(folder, token)
        if recipe is not None:
            found["free_bytes"] = _tried(lambda: machine.free_space(Path(recipe.runs_dir)))
            found["corpora"] = _corpora(recipe)
    return found


def _together(talk: Any) -> Measures:
    """What processes find out together; every process calls the same in the same order."""
    group = rates.node_group(int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    within = rates.all_reduce_gb_per_second(group)
    several = int(os.environ.get("GROUP_WORLD_SIZE", "1")) > 1
    between = rates.all_reduce_gb_per_second() if several else None
    offset = rates.clock_offsets(talk)[dist.get_rank()]
    parity = _tried(layer_parity) if dist.get_rank() == 0 else None
    dist.barrier(group=talk)
    return {
        "all_reduce_in_node": within,
        "all_reduce_of_all": between,
        "clock_offset": offset,
        "parity": parity,
    }


def _corpora(recipe: Recipe) -> Measures:
    try:
        Corpora.open(recipe)
        paths = [Path(corpus.path) for corpus in recipe.data.blend]
        # First: what verification reads comes from this machine's memory afterwards.
        rate = machine.read_rate([bin_path(path) for path in paths])
        started = time.perf_counter()
        for path in paths:
            if problems := verify(path, quick=True).problems:
                return {"error": f"{path}: {'; '.join(problems)}"}
        return {"verified_seconds": time.perf_counter() - started, **rate}
    except (RetrievaError, DataPrepError, OSError) as error:
        return {"error": str(error)}


def _tried(work: Callable[[], Any]) -> Any:
    """Return what a measurement gives, or `{"error": ...}`: one that fails must not hide the others."""
    try:
        return work()
    except (RuntimeError, OSError, ImportError, TypeError, ValueError, AttributeError) as error:
        first = str(error).splitlines()[0] if str(error) else ""
        return {"error": f"{type(error).__name__}: {first}"}
