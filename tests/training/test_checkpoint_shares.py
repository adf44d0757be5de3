"""Every rank writes and reads its share of a checkpoint, and nothing is copied that belongs to the checkpoint already."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from retrieva_pretrain.planning.memory import stage_memory
from retrieva_pretrain.recipe.layout import stage_layouts
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.training.checkpoint_files import file_sum
from retrieva_pretrain.training.optimizer_shares import share_out
from retrieva_pretrain.training.run_folder import RunFolder

if TYPE_CHECKING:
    from tests.training.conftest import World

pytestmark = pytest.mark.engine

SHORT = [f"curriculum.{stage}.train_iters=2" for stage in range(4)]


@given(
    ranks=st.integers(1, 8),
    numels=st.lists(st.integers(1, 500), min_size=1, max_size=40),
    gaps=st.lists(st.integers(0, 20), min_size=40, max_size=40),
)
def test_every_element_has_one_owner_and_every_parameter_one_saver(
    ranks: int, numels: list[int], gaps: list[int]
) -> None:
    """One bucket, with padding between its parameters."""
    sizes, at = [], 7
    for numel, gap in zip(numels, gaps, strict=False):
        sizes.append((at, at + numel))
        at += numel + gap
    bucket = -(-(at - 7) // ranks) * ranks
    shared = share_out([(start, end, 7, bucket, 12) for start, end in sizes], ranks)
    saved = [0] * ranks
    for (start, end), (pieces, saver) in zip(sizes, shared, strict=True):
        assert [piece.start for piece in pieces] == [0, *(piece.stop for piece in pieces[:-1])]
        assert pieces[-1].stop == end - start
        assert all(piece.start < piece.stop for piece in pieces)
        for piece in pieces:
            first, last = start + piece.start - 7, start + piece.stop - 1 - 7
            assert first // (bucket // ranks) == last // (bucket // ranks) == piece.rank
        assert saver in [piece.rank for piece in pieces]
        saved[saver] += end - start
    assert max(saved) <= bucket // ranks + 2 * max(numels)


def shares(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the last checkpoint took on each rank."""
    found: list[dict[str, Any]] = [r for r in records if r["kind"] == "checkpoint"][-1]["per_rank"]
    return found


def check_shares(world: World, processes: int) -> None:
    alone = shares(world.train("name=alone", *SHORT, processes=1))
    divided = shares(world.train("name=divided", *SHORT, processes=processes))
    assert (len(alone), len(divided)) == (1, processes)
    whole = alone[0]["bytes_written"]
    assert alone[0]["device_bytes"] == 0, "nothing is put together where one rank owns all"
    for figures in divided:
        # A file has some kB of its own, and the largest of so few parameters is a fifth of the whole.
        assert 0.5 / processes < figures["bytes_written"] / whole < 1.6 / processes
        assert 0.5 / processes < figures["host_bytes"] / alone[0]["host_bytes"] < 1.6 / processes
        assert figures["stall_seconds"] > 0
    assert sum(f["host_bytes"] for f in divided) == alone[0]["host_bytes"], "each tensor once"
    assert sum(f["device_bytes"] for f in divided) > 0
    # What the plan counts for it. The model of these tests has a vocabulary of 448 rows.
    recipe = load_yaml(Recipe, world.recipe)
    planned = stage_memory(recipe, 0, stage_layouts(recipe, processes)[0], 448, "local").gather
    assert max(f["device_bytes"] for f in divided) <= planned


def test_two_ranks_write_half_each(world: World) -> None:
    check_shares(world, 2)


@pytest.mark.slow
def test_four_ranks_write_a_quarter_each(world: World) -> None:
    check_shares(world, 4)


# What is planned to be written may share memory with the model or the optimizer only if nobody changes it any more.
NO_SECOND_COPY = """
import sys
from pathlib import Path
import torch
import torch.distributed as dist
from retrieva_pretrain.model.build import build_model, wrap_model
from retrieva_pretrain.model.optimizer import build_optimizer
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.training import shards
from retrieva_pretrain.training.distributed import initialize, shut_down

recipe = load_yaml(Recipe, Path("recipes/demo.yaml"))
ranks = initialize(recipe)
model = wrap_model(recipe, build_model(recipe, 512))
optimizer = build_optimizer(recipe, model)
assembled = []
state = shards.sharded_state(model, optimizer, is_loading=False, assembled=assembled)
folder = Path(sys.argv[1])
folder.mkdir(exist_ok=True)
dist.barrier()
writer = shards.plan_state(state, folder, assembled)
planned = {t.untyped_storage().data_ptr() for _, _, (_, items) in writer.buckets for _, t in items}
own = {t.untyped_storage().data_ptr() for t in assembled}
live = {p.untyped_storage().data_ptr() for p in model.parameters()}
for part in getattr(optimizer, "chained_optimizers", [optimizer]):
    for group in part.optimizer.param_groups:
        live |= {p.untyped_storage().data_ptr() for p in group["params"]}
    for values in part.optimizer.state.values():
        live |= {t.untyped_storage().data_ptr() for t in values.values() if isinstance(t, torch.Tensor)}
assert not planned & live, "a step would change what is being written"
print("assembled", len(own), "copied again", len(own - planned))
shut_down()
"""


def test_what_belongs_to_the_checkpoint_is_not_copied_again(
    run_python: Callable[..., str], tmp_path: Path
) -> None:
    shown = run_python(NO_SECOND_COPY, processes=2, arguments=[str(tmp_path / "checkpoint")])
    counts = [line.split() for line in shown.splitlines() if line.startswith("assembled")]
    assert len(counts) == 2
    assert any(int(words[1]) for words in counts)
    assert all(words[-1] == "0" for words in counts)


def test_a_fault_that_one_rank_meets_while_loading_is_known_to_all(world: World) -> None:
    """The file passes its check: the damage was there before the checksum was taken."""
    world.train(*SHORT, processes=2)
    folder = RunFolder(world.folder / "runs" / "small")
    newest = folder.checkpoint(8)
    # The second rank's file: the first one never opens it.
    shard = sorted(newest.glob("__1_*.distcp"))[0]
    shard.write_bytes(b"\\0" * shard.stat().st_size)
    description = json.loads((newest / "checkpoint.json").read_text())
    description["files"][shard.name] = file_sum(shard)
    del description["checksum"]
    own = xxhash.xxh3_128_hexdigest(json.dumps(description, sort_keys=True).encode("ascii"))
    (newest / "checkpoint.json").write_text(json.dumps({**description, "checksum": own}))
    records = world.train(*SHORT, processes=2)
    assert [r["step"] for r in records if r["kind"] == "start"] == [0, 6]
    log = "".join(path.read_text() for path in sorted(world.folder.glob("train*.log")))
    assert log.count("is damaged: it cannot be loaded") == 1
    assert folder.newest_checkpoint() == newest
