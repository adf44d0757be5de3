"""The number of processes does not change what is learnt."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from retrieva_pretrain.launch.torchrun import kill_tree

if TYPE_CHECKING:
    from tests.training.conftest import World

pytestmark = pytest.mark.engine

NO_DROPOUT = ("model.hidden_dropout=0.0", "model.attention_dropout=0.0")


# The bf16 tolerance: weights are rounded to 8 bits of mantissa after each step, and sums taken in another
# order round another way now and then.
@pytest.mark.parametrize(
    ("precision", "tolerance"), [("fp32", 1e-5), pytest.param("bf16", 5e-3, marks=pytest.mark.slow)]
)
def test_one_and_two_processes_give_the_same_losses_without_dropout(
    world: World, precision: str, tolerance: float
) -> None:
    settings = (*NO_DROPOUT, f"precision={precision}")
    one = world.losses("name=one", *settings, processes=1)
    two = world.losses("name=two", *settings, processes=2)
    assert len(one) == len(two) == 24
    assert one[-1] < one[0] - 0.1, "the model learnt nothing, so equal losses prove nothing"
    np.testing.assert_allclose(two, one, rtol=tolerance)


TENSOR = "parallelism.tensor_model_parallel_size=2"
SEQUENCE = "parallelism.sequence_parallel=true"
PIPELINE = "parallelism.pipeline_model_parallel_size=2"
OVERLAP = ("parallelism.overlap_grad_reduce=true", "parallelism.overlap_param_gather=true")


@pytest.fixture(scope="module")
def alone() -> dict[str, list[float]]:
    """Losses of one process by precision, trained once."""
    return {}


def losses_of(
    world: World, name: str, precision: str, settings: tuple[str, ...], processes: int
) -> list[float]:
    settings = (f"name={name}", *NO_DROPOUT, f"precision={precision}", *settings)
    return world.losses(*settings, processes=processes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "settings"),
    [(2, (TENSOR, SEQUENCE)), (2, (PIPELINE,)), (2, OVERLAP)],
    ids=["TP=2 with sequence parallelism", "PP=2", "DP=2, overlapped"],
)
def test_a_divided_model_gives_the_losses_of_one_process(
    world: World, alone: dict[str, list[float]], processes: int, settings: tuple[str, ...]
) -> None:
    if not alone:
        alone["fp32"] = losses_of(world, "one", "fp32", (), 1)
    np.testing.assert_allclose(
        losses_of(world, "divided", "fp32", settings, processes), alone["fp32"], rtol=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 5e-3)])
@pytest.mark.parametrize(
    ("processes", "settings"),
    [
        (2, (TENSOR,)),
        (4, (TENSOR, SEQUENCE, PIPELINE)),
        (4, (TENSOR, SEQUENCE, *OVERLAP)),
        (4, (PIPELINE, *OVERLAP)),
    ],
    ids=["TP=2", "TP=2, PP=2", "TP=2, DP=2", "PP=2, DP=2"],
)
def test_a_model_divided_in_several_ways_gives_the_losses_of_one_process(
    world: World, precision: str, tolerance: float, processes: int, settings: tuple[str, ...]
) -> None:
    one = losses_of(world, "one", precision, (), 1)
    np.testing.assert_allclose(
        losses_of(world, "divided", precision, settings, processes), one, rtol=tolerance
    )


def test_a_run_goes_on_with_another_number_of_processes_and_micro_batches(world: World) -> None:
    settings = (*NO_DROPOUT, "precision=fp32", "checkpoint.save_interval=100")
    undisturbed = world.losses("name=undisturbed", *settings, processes=1)
    # Killed as soon as the checkpoint at the end of the first stage is there.
    process = world.start("name=moved", *settings, processes=2)
    checkpoint = world.folder / "runs" / "moved" / "checkpoints" / "step_0000006"
    while not checkpoint.is_dir():
        assert process.poll() is None
        time.sleep(0.02)
    kill_tree(process)
    moved = world.train(
        "name=moved",
        *settings,
        *(f"curriculum.{stage}.max_micro_batch_size=8" for stage in range(4)),
        processes=1,
    )
    assert [r["world_size"] for r in moved if r["kind"] == "start"] == [2, 1]
    np.testing.assert_allclose([r["loss"] for r in moved if r["kind"] == "train"], undisturbed, rtol=1e-5)
