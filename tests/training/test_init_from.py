"""`init_from`: a new run begins with the weights of another."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from retrieva_pretrain.training.run_folder import RunFolder
from tests.command import retrieva

if TYPE_CHECKING:
    from tests.training.conftest import World

pytestmark = pytest.mark.engine

SHORT = [f"curriculum.{stage}.train_iters=2" for stage in range(4)]
# Other lengths, another schedule, other data and another seed.
ANOTHER = [
    "name=another",
    "seed=9",
    "optimizer.lr=1e-3",
    "data.blend=[{path: %s/data/b}]",
    "curriculum=[{seq_length: 64, train_iters: 3, max_micro_batch_size: 2}]",
]


def held_out(records: list[dict[str, Any]], step: int) -> float:
    (loss,) = (
        r["loss"]
        for r in records
        if (r["kind"], r["step"], r.get("corpus"), r.get("seq_length")) == ("evaluation", step, "b", 64)
    )
    return float(loss)


@pytest.mark.slow
def test_a_run_begins_with_the_weights_of_another_and_outlives_it(world: World) -> None:
    source = world.train(*SHORT, processes=2)
    another = [setting.replace("%s", str(world.folder)) for setting in ANOTHER]
    run = world.folder / "runs" / "small"
    fresh = world.train(*another, f"init_from={run}", "parallelism.tensor_model_parallel_size=2", processes=2)
    assert [r["step"] for r in fresh if r["kind"] == "start"] == [0]
    # The held-out text of corpus b is the same; another layout adds bf16's rounding.
    np.testing.assert_allclose(held_out(fresh, 0), held_out(source, 8), rtol=5e-3)
    assert abs(held_out(source, 8) - held_out(source, 2)) > 0.02, (
        "the source learnt nothing to be recognised by"
    )

    # Another run's newest checkpoint is another beginning; the one of the same run under another path is not.
    moved = run.rename(world.folder / "moved")
    assert "made by another recipe" in world.refused(*another, "init_from=null")
    went_on = world.train(*another, f"init_from={moved}/checkpoints/step_0000008", processes=1)
    assert [r["step"] for r in went_on if r["kind"] == "start"] == [0, 3]
    message = world.refused(*another, f"init_from={moved}/checkpoints/step_0000006")
    assert "init_from.step: 8 -> 6" in message

    # What was begun with may be removed.
    shutil.rmtree(moved)
    gone = world.train(*another, f"init_from={run}", processes=1)
    assert [r["step"] for r in gone if r["kind"] == "start"] == [0, 3, 3]
    assert "init_from" in world.refused(*another, "name=new", f"init_from={run}")


@pytest.mark.slow
def test_weights_that_do_not_fit_or_are_damaged_are_refused_and_fp32_ones_begin_a_bf16_run(
    world: World,
) -> None:
    source = world.train(*SHORT, "precision=fp32", processes=1)
    another = [setting.replace("%s", str(world.folder)) for setting in ANOTHER]
    run = world.folder / "runs" / "small"
    message = world.refused(
        *another,
        f"init_from={run}",
        "model.num_layers=1",
        "model.hidden_dropout=0.0",
        "model.max_position_embeddings=128",
        "tokenizer.make_vocab_size_divisible_by=128",
    )
    assert "model.num_layers: 2 -> 1" in message
    assert "model.max_position_embeddings: 64 -> 128" in message
    assert "tokenizer.make_vocab_size_divisible_by: 64 -> 128" in message
    assert "hidden_dropout" not in message
    assert not (world.folder / "runs" / "another").exists()
    fresh = world.train(*another, f"init_from={run}", "precision=bf16", processes=1)
    np.testing.assert_allclose(held_out(fresh, 0), held_out(source, 8), rtol=5e-3)

    shard = max(RunFolder(run).checkpoint(8).glob("*.distcp"), key=lambda p: p.stat().st_size)
    content = bytearray(shard.read_bytes())
    content[1000] ^= 1
    shard.write_bytes(content)
    message = world.refused(*another, "name=damaged", f"init_from={run}")
    assert f"{shard.name} is not what was written" in message


@pytest.mark.slow
def test_a_run_begins_with_a_model_that_was_exported_and_imported(world: World) -> None:
    source = world.train(*SHORT, processes=1)
    exported, imported = world.folder / "exported", world.folder / "imported"
    retrieva("export", world.folder / "runs" / "small", exported)
    retrieva("import", exported, imported)
    another = [setting.replace("%s", str(world.folder)) for setting in ANOTHER]
    fresh = world.train(
        *another, f"init_from={imported}", "parallelism.tensor_model_parallel_size=2", processes=2
    )
    # An export is in bf16, and so are the weights that a bf16 run computes with.
    np.testing.assert_allclose(held_out(fresh, 0), held_out(source, 8), rtol=5e-3)
    message = world.refused(*another, "name=other", f"init_from={imported}", "model.num_layers=1")
    assert "model.num_layers: 2 -> 1" in message
