"""The number of processes does not change what is learnt."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from retrieva_pretrain.launch.torchrun import kill_tree
from tests.fast_path import FAST_KERNELS, FAST_PATH, OVERLAPS

if TYPE_CHECKING:
    from tests.training.conftest import World

pytestmark = pytest.mark.engine

NO_DROPOUT = ("model.hidden_dropout=0.0", "model.attention_dropout=0.0")


# Of bf16: weights are rounded to 8 bits of mantissa after each step, and sums taken in another order round another
# way now and then.
TOLERANCES = {"fp32": 1e-5, "bf16": 5e-3}


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_one_and_two_processes_give_the_same_losses_without_dropout(world: World, precision: str) -> None:
    settings = (*NO_DROPOUT, f"precision={precision}")
    one = world.losses("name=one", *settings, processes=1)
    two = world.losses("name=two", *settings, processes=2)
    assert len(one) == len(two) == 24
    assert one[-1] < one[0] - 0.1, "the model learnt nothing, so equal losses prove nothing"
    np.testing.assert_allclose(two, one, rtol=TOLERANCES[precision])


TENSOR = "parallelism.tensor_model_parallel_size=2"
SEQUENCE = "parallelism.sequence_parallel=true"
PIPELINE = "parallelism.pipeline_model_parallel_size=2"


@pytest.fixture(scope="module")
def alone() -> dict[str, list[float]]:
    """Losses of one process by precision, each trained once."""
    return {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "processes", "settings"),
    [
        pytest.param("fp32", 2, (TENSOR,), id="TP=2"),
        pytest.param("fp32", 2, (TENSOR, SEQUENCE, *FAST_KERNELS), id="TP=2 with sequence parallelism, fast"),
        pytest.param("fp32", 2, (PIPELINE, *FAST_KERNELS), id="PP=2, fast"),
        pytest.param("fp32", 2, FAST_PATH, id="DP=2, fast"),
        pytest.param("fp32", 4, (TENSOR, SEQUENCE, PIPELINE), id="TP=2, PP=2"),
        pytest.param("fp32", 4, (TENSOR, SEQUENCE, *FAST_PATH), id="TP=2, DP=2, fast"),
        pytest.param("fp32", 4, (PIPELINE, *OVERLAPS), id="PP=2, DP=2, overlapped"),
        pytest.param("bf16", 4, (TENSOR, SEQUENCE, PIPELINE), id="TP=2, PP=2 in bf16"),
    ],
)
def test_a_divided_model_gives_the_losses_of_one_process(
    world: World,
    alone: dict[str, list[float]],
    precision: str,
    processes: int,
    settings: tuple[str, ...],
) -> None:
    common = (*NO_DROPOUT, f"precision={precision}")
    if precision not in alone:
        alone[precision] = world.losses("name=one", *common, processes=1)
    divided = world.losses("name=divided", *common, *settings, processes=processes)
    np.testing.assert_allclose(divided, alone[precision], rtol=TOLERANCES[precision])


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes_and_micro_batches(world: World) -> None:
    settings = (*NO_DROPOUT, "precision=fp32", "checkpoint.save_interval=100")
    undisturbed = world.losses("name=undisturbed", *settings, processes=1)
    # Killed as soon as the checkpoint at the end of the first stage is there.
    process = world.start("name=moved", *settings, processes=2)
    checkpoint = world.folder / "runs" / "moved" / "checkpoints" / "step_0000006"
    world.wait_until("a checkpoint", checkpoint.is_dir, process)
    kill_tree(process)
    moved = world.train(
        "name=moved",
        *settings,
        *(f"curriculum.{stage}.max_micro_batch_size=8" for stage in range(4)),
        processes=1,
    )
    assert [r["world_size"] for r in moved if r["kind"] == "start"] == [2, 1]
    np.testing.assert_allclose([r["loss"] for r in moved if r["kind"] == "train"], undisturbed, rtol=1e-5)
