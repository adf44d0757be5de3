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


@st.composite
def buckets(draw: st.DrawFn, most: int) -> tuple[int, list[tuple[int, int, int, int, int]]]:
    """Ranks, and the parameters of one buffer's buckets, with padding between parameters and at the ends of buckets."""
    ranks = draw(st.integers(1, 8))
    sizes, offset = [], draw(st.integers(0, 20))
    for _ in range(draw(st.integers(1, most))):
        at, found = offset, []
        for numel in draw(st.lists(st.integers(1, 500), min_size=1, max_size=20)):
            found.append((at, at + numel))
            at += numel + draw(st.integers(0, 20))
        bucket = -(-(at - offset) // ranks) * ranks
        sizes += [(start, end, offset, bucket, 12) for start, end in found]
        offset += bucket
    return ranks, sizes


def most_saved(ranks: int, sizes: list[tuple[int, int, int, int, int]]) -> int:
    """Elements that the rank with the most to save saves."""
    saved = [0] * ranks
    for (start, end, *_), (_, saver) in zip(sizes, share_out(sizes, ranks), strict=True):
        saved[saver] += end - start
    return max(saved)


@given(buckets(most=4))
def test_every_element_has_one_owner_and_every_parameter_one_saver(
    drawn: tuple[int, list[tuple[int, int, int, int, int]]],
) -> None:
    ranks, sizes = drawn
    for (start, end, offset, bucket, _), (pieces, saver) in zip(sizes, share_out(sizes, ranks), strict=True):
        assert [piece.start for piece in pieces] == [0, *(piece.stop for piece in pieces[:-1])]
        assert pieces[-1].stop == end - start
        assert all(piece.start < piece.stop for piece in pieces)
        for piece in pieces:
            first, last = start + piece.start - offset, start + piece.stop - 1 - offset
            assert first // (bucket // ranks) == last // (bucket // ranks) == piece.rank
        assert saver in [piece.rank for piece in pieces]


@given(buckets(most=1))
def test_of_one_bucket_no_rank_saves_more_than_its_share_and_the_largest_parameter(
    drawn: tuple[int, list[tuple[int, int, int, int, int]]],
) -> None:
    """The last owner of a parameter at a border has only whole ones of its own share so far, and the least loaded saves."""
    ranks, sizes = drawn
    assert most_saved(ranks, sizes) <= sizes[0][3] // ranks + max(end - start for start, end, *_ in sizes)


@given(buckets(most=4))
def test_of_several_buckets_no_rank_saves_more_than_its_share_and_two_of_the_largest(
    drawn: tuple[int, list[tuple[int, int, int, int, int]]],
) -> None:
    """Borders of one bucket do not know those of the next: one largest parameter is exceeded now and then."""
    ranks, sizes = drawn
    share = sum({offset: bucket for _, _, offset, bucket, _ in sizes}.values()) // ranks
    assert most_saved(ranks, sizes) <= share + 2 * max(end - start for start, end, *_ in sizes)


def shares(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the last checkpoint took on each rank."""
    found: list[dict[str, Any]] = [r for r in records if r["kind"] == "checkpoint"][-1]["per_rank"]
    return found


def weights_by_rank(checkpoint: Path, processes: int) -> tuple[list[int], int]:
    """Bytes of the model's weights in the files of each rank, and those of the largest weight."""
    from torch.distributed.checkpoint import FileSystemReader

    sizes = [0] * processes
    largest = 0
    for index, stored in FileSystemReader(str(checkpoint)).read_metadata().storage_data.items():
        if not index.fqn.startswith("optimizer.") and "_extra_state" not in index.fqn:
            sizes[int(stored.relative_path.split("_")[2])] += stored.length
            largest = max(largest, stored.length)
    return sizes, largest


def check_shares(world: World, processes: int, host_within: float) -> None:
    alone = shares(world.train("name=alone", *SHORT, processes=1))
    divided = shares(world.train("name=divided", *SHORT, processes=processes))
    assert (len(alone), len(divided)) == (1, processes)
    whole = alone[0]["bytes_written"]
    assert alone[0]["device_bytes"] == 0, "nothing is put together where one rank owns all"
    for figures in divided:
        # A file has some kB of its own, and the largest of so few parameters is a fifth of the whole.
        assert 0.5 / processes < figures["bytes_written"] / whole < 1.6 / processes
        share = figures["host_bytes"] / alone[0]["host_bytes"] * processes
        assert 1 - host_within < share < 1 + host_within
        assert figures["stall_seconds"] > 0
    # Beside the tensors: each file has its own headers.
    assert whole <= sum(f["bytes_written"] for f in divided) < 1.1 * whole
    assert sum(f["host_bytes"] for f in divided) == alone[0]["host_bytes"], "each tensor once"
    assert sum(f["device_bytes"] for f in divided) > 0
    newest = RunFolder(world.folder / "runs" / "divided").newest_checkpoint()
    assert newest is not None
    # They go to the ranks that have the least of the optimizer's state to write.
    weights, _ = weights_by_rank(newest, processes)
    assert sum(size > 0 for size in weights) > 1, "no rank writes the weights of all"
    # What the plan counts for it. The model of these tests has a vocabulary of 448 rows.
    recipe = load_yaml(Recipe, world.recipe)
    planned = stage_memory(recipe, 0, stage_layouts(recipe, processes)[0], 448).gather
    assert max(f["device_bytes"] for f in divided) <= planned


@pytest.mark.slow
def test_two_ranks_write_half_each(world: World) -> None:
    # Equal to three digits; were the weights the first rank's alone, it would have 1.14 halves.
    check_shares(world, 2, host_within=0.05)


@pytest.mark.slow
def test_four_ranks_write_a_quarter_each(world: World) -> None:
    check_shares(world, 4, host_within=0.6)


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


@pytest.mark.slow
def test_a_fault_that_one_rank_meets_while_loading_is_known_to_all(world: World) -> None:
    """The file passes its check: the damage was there before the checksum was taken."""
    world.train(*SHORT, processes=2)
    folder = RunFolder(world.folder / "runs" / "small")
    newest = folder.checkpoint(8)
    # The second rank's file: the first one never opens it.
    shard = sorted(newest.glob("__1_*.distcp"))[0]
    shard.write_bytes(b"\0" * shard.stat().st_size)
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
