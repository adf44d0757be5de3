"""Initial weights are drawn for a new run, and not where they would be overwritten."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.training.conftest import World

pytestmark = pytest.mark.engine

PROGRAM = """
import sys
from retrieva_pretrain.cli import main
from retrieva_pretrain.model import build

def refuse(*arguments, **options):
    raise AssertionError("weights are drawn")

if __name__ == "__main__":
    build.draw_initial_weights = refuse
    sys.argv = ["retrieva", "train", *sys.argv[1:]]
    main()
"""


@pytest.mark.slow
def test_a_run_that_goes_on_draws_no_weights(world: World, run_python: Callable[..., str]) -> None:
    short = "curriculum=[{seq_length: 16, train_iters: 2, max_micro_batch_size: 4}]"
    with pytest.raises(AssertionError, match="weights are drawn"):
        run_python(PROGRAM, arguments=[str(world.recipe), short])
    world.train(short, processes=1)
    assert "going on from" in run_python(PROGRAM, arguments=[str(world.recipe), short])
