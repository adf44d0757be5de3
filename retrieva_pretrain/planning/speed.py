"""How fast each stage of a plan is, and where that comes from: measured, modelled, or assumed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import log
from typing import Literal

from retrieva_pretrain.errors import RecipeError
from retrieva_pretrain.planning.cost import MFU_RANGE, stage_seconds
from retrieva_pretrain.planning.flops import FlopCount
from retrieva_pretrain.planning.hardware import Hardware
from retrieva_pretrain.planning.measured import Measured, MeasuredStage
from retrieva_pretrain.planning.throughput import (
    MicroBatch,
    StepSeconds,
    assemble,
    data_parallel_wait,
    micro_batch,
    optimizer_seconds,
    step_seconds,
)
from retrieva_pretrain.recipe.layout import StageLayout
from retrieva_pretrain.recipe.schema import Recipe

Source = Literal["modelled", "measured", "assumed"]

_RANGE: dict[Source, tuple[float, float]] = {"modelled": (0.9, 1.25), "measured": (0.97, 1.05)}
"""Allowances round the expected time. A model errs towards the fast side: what it does not know of costs time."""


@dataclass(frozen=True)
class Speed:
    """One stage on each GPU."""

    source: Source
    origin: str
    """In words: measured on 2026-11-27, NVIDIA H100; modelled; assumed."""

    step_seconds: float
    shortest: float
    """Of a step, like the next."""

    longest: float
    tokens_per_second: float
    """Of one GPU, in whole steps."""

    mfu: float
    """Share of the dense BF16 peak that the model's operations make of whole steps."""

    bound: str | None
    """What most of a step waits for, by the model: arithmetic, memory, network, host, pipeline. None where assumed."""

    parts: StepSeconds | None
    """The modelled step; None where assumed."""


@dataclass(frozen=True)
class SpeedSource:
    """Where the speeds of a plan come from: an MFU if one is given, then measurements, then the model."""

    hardware: Hardware
    mfu: float | None = None
    measured: Measured | None = None

    def of_stage(
        self,
        recipe: Recipe,
        index: int,
        layout: StageLayout,
        padded_vocab_size: int,
        gpus: int,
        flops: FlopCount,
    ) -> Speed | None:
        """Return the speed of a stage of the recipe; None where the peak of the GPUs is not known."""
        if self.hardware.peak_tflops is None:
            return None
        stage = recipe.curriculum[index]

        def speed(source: Source, origin: str, seconds: float, parts: StepSeconds | None) -> Speed:
            low, high = _RANGE[source] if source != "assumed" else _assumed_range(self.mfu or 1.0)
            rate = recipe.global_batch_size / seconds / gpus
            peak = (self.hardware.peak_tflops or 0.0) * 1e12
            return Speed(
                source=source,
                origin=origin,
                step_seconds=seconds,
                shortest=low * seconds,
                longest=high * seconds,
                tokens_per_second=rate * stage.seq_length,
                mfu=rate * flops.training / peak,
                bound=None if parts is None else parts.bound,
                parts=parts,
            )

        if self.mfu is not None:
            seconds = stage_seconds(
                recipe, index, flops, gpus, self.hardware.peak_tflops, self.mfu, layout.num_microbatches
            )
            return speed("assumed", f"assumed {self.mfu:.0%} MFU", seconds / stage.train_iters, None)
        modelled = step_seconds(recipe, index, layout, padded_vocab_size, self.hardware)
        entry = None if self.measured is None else nearest_entry(self.measured, recipe, index, layout)
        if self.measured is None or entry is None:
            return speed("modelled", "modelled", modelled.total, modelled)
        origin = f"measured on {self.measured.origin}"
        if entry.micro_batch_size != layout.micro_batch_size:
            origin += f", scaled from {entry.micro_batch_size} samples to {layout.micro_batch_size}"
        parts = self._measured_step(recipe, index, layout, padded_vocab_size, entry)
        found = speed("measured", origin, parts.total, parts)
        if found.mfu > 1:
            raise RecipeError(
                f"{origin}: {entry.micro_batch_size} samples of {entry.seq_length} tokens in"
                f" {entry.seconds_per_micro_batch:g} s would be {found.mfu:.0%} of the peak of {self.hardware.name},"
                f" {self.hardware.peak_tflops:,.0f} TFLOP/s per GPU. Measure again, or correct gpu_peak_tflops of the profile"
            )
        return found

    def _measured_step(
        self, recipe: Recipe, index: int, layout: StageLayout, padded_vocab_size: int, entry: MeasuredStage
    ) -> StepSeconds:
        """Return a step of measured micro-batches and optimizer, and modelled communication between the copies.

        The model divides what was measured into what it waits for. What one copy cannot show, it adds: the distributed
        optimizer's smaller share, and gradients and weights on their way.
        """
        hardware, copies = self.hardware, layout.data_parallel_size
        micro = micro_batch(recipe, index, layout.micro_batch_size, padded_vocab_size, hardware)
        as_measured = micro_batch(recipe, index, entry.micro_batch_size, padded_vocab_size, hardware)
        factor = entry.seconds_per_micro_batch / as_measured.seconds
        whole, share = (optimizer_seconds(recipe, padded_vocab_size, n, hardware) for n in (1, copies))
        step = assemble(
            recipe,
            layout,
            micro,
            optimizer=0.0,
            exposed=0.0,
        )
        exposed = data_parallel_wait(recipe, _scaled(micro, factor), copies, padded_vocab_size, hardware)
        return StepSeconds(
            arithmetic=step.arithmetic * factor,
            memory=step.memory * factor + entry.optimizer_seconds * share / whole,
            network=step.network * factor + exposed,
            host=step.host * factor,
            pipeline=step.pipeline * factor,
        )

    def calibrated(self, recipe: Recipe, index: int, layout: StageLayout, padded_vocab_size: int) -> float:
        """Return the seconds of a step, for comparing choices that were not all measured.

        Where none was measured as it is, the model is scaled by the nearest measurement of the same length, of whatever
        layout and recomputation, so that a measured choice does not lose to an optimistic model.
        """
        modelled = step_seconds(recipe, index, layout, padded_vocab_size, self.hardware).total
        if self.measured is None:
            return modelled
        entry = nearest_entry(self.measured, recipe, index, layout)
        if entry is not None:
            return self._measured_step(recipe, index, layout, padded_vocab_size, entry).total
        near = _nearest(
            [e for e in self.measured.entries if e.seq_length == recipe.curriculum[index].seq_length],
            layout.micro_batch_size,
        )
        if near is None:
            return modelled
        other = _like(recipe, index, near)
        as_measured = micro_batch(other, index, near.micro_batch_size, padded_vocab_size, self.hardware)
        return modelled * near.seconds_per_micro_batch / as_measured.seconds


def _assumed_range(mfu: float) -> tuple[float, float]:
    """Return the shortest and longest time as shares of the expected one, the range widened to hold the MFU."""
    low, high = min(MFU_RANGE[0], mfu), max(MFU_RANGE[1], mfu)
    return mfu / high, mfu / low


def _scaled(micro: MicroBatch, factor: float) -> MicroBatch:
    return replace(micro, forward=micro.forward * factor, backward=micro.backward * factor)


def nearest_entry(
    measured: Measured, recipe: Recipe, index: int, layout: StageLayout
) -> MeasuredStage | None:
    """Return the measurement of a stage at the micro-batch that is nearest; None where the stage was not measured."""
    stage, sizes = recipe.curriculum[index], recipe.parallelism
    if stage.recompute_granularity == "full" and stage.recompute_num_layers is not None:
        return None
    wanted = (
        stage.seq_length,
        stage.recompute_granularity or "none",
        sizes.tensor_model_parallel_size,
        sizes.pipeline_model_parallel_size,
    )
    same = [
        e
        for e in measured.entries
        if (e.seq_length, e.recompute, e.tensor_model_parallel_size, e.pipeline_model_parallel_size) == wanted
    ]
    return _nearest(same, layout.micro_batch_size)


def _nearest(entries: list[MeasuredStage], micro_batch_size: int) -> MeasuredStage | None:
    return min(entries, key=lambda e: abs(log(e.micro_batch_size / micro_batch_size)), default=None)


def _like(recipe: Recipe, index: int, entry: MeasuredStage) -> Recipe:
    """Return the recipe with the layout and the recomputation of a measurement."""
    stages = list(recipe.curriculum)
    again = None if entry.recompute == "none" else entry.recompute
    stages[index] = stages[index].model_copy(
        update={"recompute_granularity": again, "recompute_num_layers": None}
    )
    tensor = entry.tensor_model_parallel_size
    sizes = recipe.parallelism.model_copy(
        update={
            "tensor_model_parallel_size": tensor,
            "pipeline_model_parallel_size": entry.pipeline_model_parallel_size,
            "sequence_parallel": tensor > 1,
        }
    )
    return recipe.model_copy(update={"curriculum": stages, "parallelism": sizes})
