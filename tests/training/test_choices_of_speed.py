"""What is switched on for speed or memory leaves the losses, the evaluations and the checkpoints as they are."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.fast_path import FAST_KERNELS, OVERLAPS

if TYPE_CHECKING:
    from tests.training.conftest import World

pytestmark = [pytest.mark.engine, pytest.mark.slow]

# Checkpoints and evaluations between the steps: they read weights outside a forward pass.
SHORT = (
    "curriculum=[{seq_length: 16, train_iters: 3, max_micro_batch_size: 4},"
    " {seq_length: 24, train_iters: 3, max_micro_batch_size: 2},"
    " {seq_length: 32, train_iters: 6, max_micro_batch_size: 2}]",
    "checkpoint.save_interval=4",
    "checkpoint.keep=9",
    "evaluation.eval_interval=5",
)

NO_DROPOUT = ("precision=fp32", "model.hidden_dropout=0.0", "model.attention_dropout=0.0")


def of_kind(metrics: list[dict[str, Any]], kind: str) -> list[float]:
    return [line["loss"] for line in metrics if line["kind"] == kind]


def test_overlapped_communication_and_recomputation_by_stage_change_no_bit(world: World) -> None:
    changed = (
        "parallelism.overlap_grad_reduce=true",
        "parallelism.overlap_param_gather=true",
        "curriculum.0.recompute_granularity=full",
        "curriculum.1.recompute_granularity=selective",
    )
    plain = world.train("name=plain", *SHORT, processes=2)
    other = world.train("name=other", *SHORT, *changed, processes=2)
    for kind, least in (("train", 12), ("evaluation", 8)):
        assert len(of_kind(plain, kind)) >= least
        assert of_kind(other, kind) == of_kind(plain, kind), kind
    # A checkpoint written meanwhile holds the weights of its own step: it goes on, plainly, with the same bits.
    shutil.rmtree(world.folder / "runs" / "other" / "checkpoints" / "step_0000012")
    resumed = world.train("name=other", *SHORT, processes=2)
    assert of_kind(resumed, "train") == of_kind(plain, "train")


@pytest.mark.parametrize(
    "choices",
    [
        pytest.param(FAST_KERNELS[:1], id="attention"),
        pytest.param(FAST_KERNELS[1:2], id="bias and activation"),
        pytest.param(FAST_KERNELS[2:3], id="bias and dropout"),
        pytest.param(FAST_KERNELS[3:], id="gradient accumulation"),
        pytest.param(
            (*FAST_KERNELS[:3], *OVERLAPS, "kernels.compile_layers=true"), id="all, layers compiled"
        ),
    ],
)
def test_kernels_give_the_losses_of_the_plain_ones(
    world: World, plain: list[float], choices: tuple[str, ...]
) -> None:
    if not plain:
        plain += world.losses("name=plain", *SHORT, *NO_DROPOUT, processes=1)
    fused = world.losses("name=fused", *SHORT, *NO_DROPOUT, *choices, processes=1)
    assert plain[-1] < plain[0] - 0.1, "the model learnt nothing, so equal losses prove nothing"
    np.testing.assert_allclose(fused, plain, rtol=1e-5)


@pytest.fixture(scope="module")
def plain() -> list[float]:
    """Losses with megatron-core's plain kernels, trained once."""
    return []
