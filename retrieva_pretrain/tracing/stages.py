"""Builds a recipe's model on fake tensors and takes a step of each stage, with the code that trains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer
from torch._subclasses.fake_tensor import FakeTensorMode

from retrieva_pretrain.data.segments import document_bounds
from retrieva_pretrain.model.build import build_model, wrap_model
from retrieva_pretrain.model.optimizer import build_optimizer
from retrieva_pretrain.model.recompute import set_recompute
from retrieva_pretrain.recipe.kernels import without_ignored_choices
from retrieva_pretrain.recipe.layout import StageLayout, scored_slots, stage_layouts
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.tracing.allocations import Allocations
from retrieva_pretrain.tracing.fake_gpu import become_a_gpu
from retrieva_pretrain.tracing.trace import TracedMemory
from retrieva_pretrain.training.batch import MicroBatch
from retrieva_pretrain.training.step import run_micro_batches, update_weights

# The second micro-batch finds what the first one left, as all after it do.
_MICRO_BATCHES = 2


def trace_stages(
    recipe: Recipe, gpus: int, padded_vocab_size: int, stages: Sequence[int]
) -> Iterator[TracedMemory]:
    """Trace stages of a recipe, one after the other. Changes torch and megatron-core: at most once in a process."""
    recipe = without_ignored_choices(recipe, "cuda")
    # Layers are traced as they are: what torch.compile keeps of whole layers is not known here.
    kernels = recipe.kernels.model_copy(update={"compile_layers": False})
    recipe = recipe.model_copy(update={"kernels": kernels})
    become_a_gpu(recipe, gpus)
    layouts = stage_layouts(recipe, gpus)
    allocations = Allocations()
    with FakeTensorMode(allow_non_fake_inputs=True), allocations:
        model = wrap_model(recipe, build_model(recipe, padded_vocab_size, draw_weights=False))
        optimizer = build_optimizer(recipe, model)
        optimizer.prepare_grads()
        _update(recipe, optimizer, allocations)  # makes the optimizer's states
        for index in stages:
            yield _trace(recipe, index, layouts[index], model, optimizer, allocations)


def _trace(
    recipe: Recipe,
    index: int,
    layout: StageLayout,
    model: DistributedDataParallel,
    optimizer: MegatronOptimizer,
    allocations: Allocations,
) -> TracedMemory:
    stage = recipe.curriculum[index]
    set_recompute(model, stage)
    # Sequence parallelism gathers into one buffer that grows with the stages.
    parallel_state.get_global_memory_buffer().buffer.clear()
    static = allocations.now
    allocations.begin()
    model.zero_grad_buffer()
    optimizer.zero_grad()
    after_forward: list[int] = []
    handle = model.register_forward_hook(lambda *_: after_forward.append(allocations.now))
    count = min(_MICRO_BATCHES, layout.num_microbatches)
    run_micro_batches(
        model,
        _micro_batches(recipe, index, layout.micro_batch_size, count),
        seq_length=stage.seq_length,
        micro_batch_size=layout.micro_batch_size,
        num_microbatches=count,
        optimizer=optimizer,
    )
    handle.remove()
    peak, phase, operator = allocations.peak, allocations.peak_phase, allocations.peak_operator
    update_peak = _update(recipe, optimizer, allocations)
    if update_peak > peak:
        peak, phase, operator = update_peak, allocations.peak_phase, allocations.peak_operator
    return TracedMemory(
        stage=index,
        seq_length=stage.seq_length,
        micro_batch_size=layout.micro_batch_size,
        static=static,
        after_forward=max(after_forward),
        peak=peak,
        peak_phase=phase,
        peak_operator=operator,
        update_peak=update_peak,
    )


def _update(recipe: Recipe, optimizer: MegatronOptimizer, allocations: Allocations) -> int:
    """Update the weights by prepared gradients that are clipped; returns the most bytes allocated meanwhile."""
    allocations.begin()
    allocations.is_updating = True
    update_weights(optimizer, recipe.optimizer.clip_grad, grad_norm=2 * recipe.optimizer.clip_grad)
    allocations.is_updating = False
    return allocations.peak


def _micro_batches(recipe: Recipe, index: int, samples: int, count: int) -> Iterator[MicroBatch]:
    """Yield micro-batches of a stage, on the device; where documents are kept apart, two in every sample."""
    length = recipe.curriculum[index].seq_length
    slots = scored_slots(recipe.masking_probability(index), length)
    halves = np.tile(np.arange(length) >= length // 2, (samples, 1)).astype(np.int64)
    for _ in range(count):
        documents: dict[str, torch.Tensor] = {}
        if recipe.data.reset_attention_mask:
            documents["segment_ids"] = torch.zeros(samples, length, dtype=torch.long)
            documents["cu_seqlens"] = torch.zeros(len(document_bounds(halves)), dtype=torch.int32)
        if recipe.data.reset_position_ids:
            documents["position_ids"] = torch.zeros(samples, length, dtype=torch.long)
        yield MicroBatch(
            first_sample=0,
            input_ids=torch.zeros(samples, length, dtype=torch.long),
            scored_positions=torch.zeros(samples, slots, dtype=torch.long),
            labels=torch.zeros(samples, slots, dtype=torch.long),
            loss_weights=torch.ones(samples, slots),
            **documents,
        )
