"""Traces from outside: starts the process that traces and reads its answer. No torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from tempfile import TemporaryFile
from typing import Literal

from retrieva_pretrain.errors import RecipeError, RetrievaError
from retrieva_pretrain.recipe.layout import stage_layouts
from retrieva_pretrain.recipe.schema import Recipe

Phase = Literal["forward", "backward", "update"]

# A trace is one process whatever started it: a process of a run, or one with a GPU.
_NOT_INHERITED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class TracedMemory:
    """What torch's allocator hands out on one GPU in a step of one stage, in bytes and blocks of 512.

    The CUDA context, NCCL's buffers, cuBLAS's workspace and fragmentation come on top.
    """

    stage: int
    """0-based."""

    seq_length: int
    micro_batch_size: int

    static: int
    """Weights, gradients and optimizer states: what is there between two steps."""

    after_forward: int
    """When a forward pass ends: static, and what is kept for backward."""

    peak: int
    """The most at any moment of the step."""

    peak_phase: Phase
    peak_operator: str
    """The operator that allocated last when the peak was reached."""

    update_peak: int
    """The most while the optimizer updates the weights."""


def trace_stage_memory(
    recipe: Recipe,
    gpus: int,
    padded_vocab_size: int,
    stages: Sequence[int] | None = None,
    *,
    on_traced: Callable[[TracedMemory], None] | None = None,
) -> list[TracedMemory]:
    """Trace a training step of stages of a recipe on `gpus` GPUs, in a process of its own; takes up to a minute each.

    Args:
        recipe: the resolved recipe; it is traced with the kernels that it takes on CUDA.
        gpus: number of GPUs, which the recipe's layout must divide.
        padded_vocab_size: rows of the embedding.
        stages: 0-based numbers of stages; all by default.
        on_traced: called with each stage's figures as soon as they are there.

    Raises:
        RecipeError: the layout does not divide, or has what cannot be traced: pipeline stages, Transformer Engine.
        RetrievaError: torch or megatron-core is missing, or the process that traces failed.
    """
    stage_layouts(recipe, gpus)  # refuses before a process is started
    _refuse_untraceable(recipe)
    if find_spec("torch") is None or find_spec("megatron") is None:
        raise RetrievaError("--trace: needs torch and megatron-core, which are not installed here")
    request = {
        "recipe": recipe.model_dump(mode="json"),
        "gpus": gpus,
        "padded_vocab_size": padded_vocab_size,
        "stages": list(range(len(recipe.curriculum)) if stages is None else stages),
    }
    traced = []
    for row in _rows_of_process(json.dumps(request)):
        traced.append(row)
        if on_traced is not None:
            on_traced(row)
    return traced


def _rows_of_process(request: str) -> Iterator[TracedMemory]:
    """Start the process that traces, hand it the request and yield what it finds, stage by stage."""
    environment = {k: v for k, v in os.environ.items() if k not in _NOT_INHERITED}
    with (
        TemporaryFile("w+", encoding="utf-8") as errors,
        subprocess.Popen(
            [sys.executable, "-m", "retrieva_pretrain.tracing"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment | {"CUDA_VISIBLE_DEVICES": ""},
        ) as process,
    ):
        assert process.stdin is not None and process.stdout is not None
        with process.stdin:
            process.stdin.write(request)
        for line in process.stdout:
            if line.startswith("{"):
                yield TracedMemory(**json.loads(line))
        if process.wait() != 0:
            errors.seek(0)
            said = errors.read().strip().splitlines() or [f"exit code {process.returncode}"]
            raise RetrievaError(f"--trace: the process that traces failed: {said[-1]}")


def _refuse_untraceable(recipe: Recipe) -> None:
    if recipe.parallelism.pipeline_model_parallel_size > 1:
        raise RecipeError("--trace: pipeline_model_parallel_size must be 1; other layouts cannot be traced")
    if recipe.kernels.transformer_impl == "transformer_engine":
        raise RecipeError("--trace: transformer_impl must be local; Transformer Engine cannot be traced")


def as_json(traced: TracedMemory) -> str:
    """Return a stage's figures in one line, as `trace_stage_memory` reads them."""
    return json.dumps(asdict(traced))
