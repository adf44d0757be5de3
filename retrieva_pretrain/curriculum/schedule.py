"""The learning rate of every step: warm-up from 0, then decay.

The formulas are those of megatron-core's `OptimizerParamScheduler` with steps as the unit, as a pure
function: the first step of a warm-up has learning rate 0, and the rate of a step does not depend on how the
run came there.
"""

from __future__ import annotations

import math

from retrieva_pretrain.curriculum.stages import Curriculum
from retrieva_pretrain.recipe.schema import OptimizerConfig, Recipe


def learning_rate(recipe: Recipe, step: int) -> float:
    """Return the learning rate of the 0-based step.

    With `schedule_scope: run` one schedule spans all stages; with `stage` it begins anew in each. Steps past
    the end of the run keep its last schedule's final rate.

    Raises IndexError for a negative step.
    """
    if step < 0:
        raise IndexError(f"step {step} is before the run")
    curriculum = Curriculum(recipe)
    if recipe.schedule_scope == "run":
        return scheduled(recipe.optimizer, step, curriculum.total_steps)
    here = curriculum.at(min(step, curriculum.total_steps - 1))
    return scheduled(recipe.optimizer, step - here.start_step, here.stage.train_iters)


def scheduled(settings: OptimizerConfig, step: int, steps: int) -> float:
    """Return the learning rate of the 0-based step in a schedule of so many steps.

    Past the end the rate stays at `min_lr` (`lr` for a constant one).
    """
    warmup = settings.warmup_steps(steps)
    if warmup > 0 and step <= warmup:
        return settings.lr * step / warmup
    if settings.lr_decay_style == "constant":
        return settings.lr
    if step > steps:
        return settings.min_lr
    if settings.lr_decay_style == "inverse-square-root":
        return max(settings.min_lr, settings.lr * math.sqrt(max(warmup, 1)) / math.sqrt(max(step, 1)))
    span = settings.lr - settings.min_lr
    if settings.lr_decay_style == "WSD":
        return settings.min_lr + _end_of_wsd(settings, step, steps) * span
    done = (step - warmup) / (steps - warmup)
    share = 1.0 - done if settings.lr_decay_style == "linear" else 0.5 * (math.cos(math.pi * done) + 1.0)
    return settings.min_lr + share * span


def _end_of_wsd(settings: OptimizerConfig, step: int, steps: int) -> float:
    """Return the share of the learning rate that warm-up-stable-decay has left: 1 until its last steps."""
    decay = settings.lr_wsd_decay_iters or 0
    start = steps - decay
    if step <= start:
        return 1.0
    done = (step - start) / decay
    if settings.lr_wsd_decay_style == "linear":
        return 1.0 - done
    if settings.lr_wsd_decay_style == "cosine":
        return 0.5 * (math.cos(math.pi * done) + 1.0)
    if settings.lr_wsd_decay_style == "exponential":
        return float((2.0 * math.pow(0.5, done)) - 1.0)
    return 1.0 - math.sqrt(done)
