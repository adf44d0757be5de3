"""Attention that stays inside documents: nothing of a neighbour reaches a document."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytestmark = pytest.mark.engine

PROGRAM = """
import sys
from pathlib import Path
import torch
from retrieva_pretrain.model.build import build_model
from retrieva_pretrain.data.segments import document_bounds
from retrieva_pretrain.model.masked_lm import other_segments
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.training.distributed import initialize, shut_down

recipe = load_yaml(Recipe, Path("recipes/demo.yaml"), ["precision=fp32", *sys.argv[1:]])
initialize(recipe)
model = build_model(recipe, 512).eval()
generator = torch.Generator().manual_seed(3)
ids = torch.randint(8, 500, (2, 12), generator=generator)
segments = torch.tensor([[0] * 5 + [1] * 4 + [2] * 3, [0] * 2 + [1] * 10])
positions = torch.tensor([[*range(5), *range(4), *range(3)], [*range(2), *range(10)]])

def logits(tokens, **options):
    if "segment_ids" in options:
        options["cu_seqlens"] = torch.from_numpy(document_bounds(options["segment_ids"].numpy()))
    with torch.no_grad():
        return model(input_ids=tokens, **options)

other = ids.clone()
other[0, :5] = torch.randint(8, 500, (5,), generator=generator)
inside = slice(5, 9)  # the second document of the first sample
with_segments = [logits(tokens, segment_ids=segments)[0, inside] for tokens in (ids, other)]
torch.testing.assert_close(*with_segments, rtol=0, atol=0)
without = [logits(tokens)[0, inside] for tokens in (ids, other)]
assert not torch.allclose(*without, atol=1e-4), "the neighbour should have been seen"

# With positions that begin anew a document among others is the document alone.
packed = logits(ids, segment_ids=segments, position_ids=positions)
for row, first, after in ((0, 0, 5), (0, 5, 9), (0, 9, 12), (1, 0, 2), (1, 2, 12)):
    alone = logits(ids[row : row + 1, first:after])
    torch.testing.assert_close(packed[row, first:after], alone[0], rtol=1e-4, atol=1e-5)

assert other_segments(segments).shape == (2, 1, 12, 12)
shut_down()
"""


@pytest.mark.parametrize("attention", ["unfused", "sdpa"])
def test_a_document_sees_nothing_of_its_neighbours(run_python: Callable[..., str], attention: str) -> None:
    run_python(PROGRAM, arguments=[f"kernels.attention_backend={attention}"])
