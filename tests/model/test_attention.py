"""SDPA attention computes what megatron-core's unfused attention does, and drops the share that it is told to."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytestmark = pytest.mark.engine

PREPARE = """
import sys
from pathlib import Path
import torch
import torch.distributed as dist
from retrieva_pretrain.model.attention import SdpaCoreAttention
from retrieva_pretrain.model.build import build_model
from retrieva_pretrain.model.masked_lm import other_segments
from retrieva_pretrain.data.segments import document_bounds
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.training.distributed import initialize, seed_random_streams, shut_down

VOCABULARY = 512

def recipe_of(*overrides):
    return load_yaml(Recipe, Path("recipes/demo.yaml"), [
        "precision=fp32", "model.hidden_dropout=0.0", "model.attention_dropout=0.0", "model.num_layers=2",
        "model.hidden_size=64", "model.ffn_hidden_size=96", *overrides])

def core_attentions(model):
    return [layer.self_attention.core_attention for layer in model.encoder.layers]
"""

# Both models have the same weights, drawn so large that every position attends to few others.
PARITY = """
layout = sys.argv[4:]
samples, length = int(sys.argv[2]), int(sys.argv[3])
slots = length // 4
initialize(recipe_of(*layout))
generator = torch.Generator().manual_seed(3)
ids = torch.randint(8, 500, (samples, length), generator=generator)
positions = torch.stack([torch.randperm(length, generator=generator)[:slots].sort()[0] for _ in range(samples)])
labels = torch.randint(8, 500, (samples, slots), generator=generator)
weights = (torch.rand(samples, slots, generator=generator) < 0.8).float()
# Documents of every length, some of one token.
segments = (torch.rand(samples, length, generator=generator) < 0.2).long().cumsum(1)
bounds = torch.from_numpy(document_bounds(segments.numpy()))
WAYS = {
    "across documents": {},
    "bounds": {"segment_ids": segments, "cu_seqlens": bounds},
    # `document_bounds` fills up with empty documents.
    "bounds without empty documents": {"segment_ids": segments, "cu_seqlens": bounds.unique()},
    "mask": {"attention_mask": other_segments(segments)},
}

def built(backend, groups):
    model = build_model(recipe_of(
        f"kernels.attention_backend={backend}", f"model.num_query_groups={groups}",
        "data.reset_attention_mask=true", *layout), VOCABULARY)
    is_sdpa = [isinstance(core, SdpaCoreAttention) for core in core_attentions(model)]
    assert len(is_sdpa) == 2 and all(one == (backend == "sdpa") for one in is_sdpa)
    noise = torch.Generator().manual_seed(dist.get_rank())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # What tensor-parallel processes share must be alike on them.
            if getattr(parameter, "tensor_model_parallel", False):
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=noise))
    return model

def loss_and_gradients(model, options):
    model.zero_grad()
    losses, _ = model(input_ids=ids, scored_positions=positions, labels=labels, **options)
    loss = (losses * weights).sum() / weights.sum()
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters()}

largest_loss = largest_gradient = 0.0
for groups in map(int, sys.argv[1].split(",")):
    unfused, sdpa = built("unfused", groups), built("sdpa", groups)
    plain = {}
    for way, options in WAYS.items():
        # megatron-core's unfused attention takes a mask only; it is made from the segments.
        expected, gradients = loss_and_gradients(unfused, options)
        loss, found = loss_and_gradients(sdpa, options)
        plain[way] = expected
        apart = abs(loss - expected) / expected
        assert apart < 2e-6, (groups, way, loss, expected)
        largest_loss = max(largest_loss, apart)
        assert found.keys() == gradients.keys() and len(found) > 20
        for name, gradient in gradients.items():
            apart = ((found[name] - gradient).abs().max() / gradient.abs().max()).item()
            assert apart < 1e-5, (groups, way, name, apart)
            largest_gradient = max(largest_gradient, apart)
    assert plain["bounds"] == plain["mask"]
    assert abs(plain["bounds"] - plain["across documents"]) > 1e-3, "documents must matter"
print(f"compared; largest differences: loss {largest_loss:.1e}, gradient {largest_gradient:.1e}")
shut_down()
"""

TENSOR = "parallelism.tensor_model_parallel_size=2"
SEQUENCE = "parallelism.sequence_parallel=true"


@pytest.mark.parametrize(
    ("groups", "samples", "length", "layout"),
    [
        pytest.param("1,2,4", 3, 24, [], id="one process"),
        pytest.param(
            "1,2,4", 3, 24, [TENSOR, SEQUENCE], id="TP=2 with sequence parallelism", marks=pytest.mark.slow
        ),
        pytest.param("1,2,4", 3, 24, [TENSOR], id="TP=2", marks=pytest.mark.slow),
        pytest.param("1,2,4", 5, 128, [], id="long, one process", marks=pytest.mark.slow),
        pytest.param("1,2,4", 5, 128, [TENSOR, SEQUENCE], id="long, TP=2", marks=pytest.mark.slow),
    ],
)
def test_sdpa_gives_the_loss_and_every_gradient_of_unfused_attention(
    run_python: Callable[..., str], groups: str, samples: int, length: int, layout: list[str]
) -> None:
    processes = 2 if TENSOR in layout else 1
    arguments = [groups, str(samples), str(length), *layout]
    shown = run_python(PREPARE + PARITY, processes=processes, arguments=arguments)
    print(shown)
    assert shown.count("compared") == processes


# With queries of zero all probabilities are 1 / s; with the unit matrix as values, row i of the output is what is left of
# the probabilities of position i. So the mask is seen as it is, inside the real layers.
DROPOUT = """
layout = sys.argv[2:]
share, s, b = 0.3, 16, 24
recipe = recipe_of(
    f"kernels.attention_backend={sys.argv[1]}", "model.attention_dropout=0.3", "data.reset_attention_mask=true", *layout)
ranks = initialize(recipe)
model = build_model(recipe, VOCABULARY)
ids = torch.randint(8, 500, (b, s), generator=torch.Generator().manual_seed(3))
one_document_per_sample = torch.zeros_like(ids)
bounds = torch.arange(0, b * s + 1, s, dtype=torch.int32)
seen = []

def reveal(module, arguments, options):
    query, key, value, *others = arguments
    assert query.size(-1) == s == query.size(0)
    unit = torch.eye(s).view(s, 1, 1, s).expand_as(value).contiguous()
    return (torch.zeros_like(query), key, unit, *others), options

def look(module, arguments, output):
    seen.append(output.detach().view(s, b, -1, s).permute(1, 2, 0, 3))  # [b, heads, s, s]

for core in core_attentions(model):
    core.register_forward_pre_hook(reveal, with_kwargs=True)
    core.register_forward_hook(look)

def masks(step=0, **options):
    # [layers, b, heads, s, s], True where a probability was kept.
    seen.clear()
    seed_random_streams(7, step, 0)
    model(input_ids=ids, **options)
    left = torch.stack(seen) * s
    kept = left > 0
    factor = 1 / (1 - share) if model.training else 1.0
    torch.testing.assert_close(left, kept * factor, rtol=1e-6, atol=0)
    return kept

def alike(one, other):
    return (one == other).float().mean().item()

independent = share**2 + (1 - share) ** 2
for options in ({}, {"segment_ids": one_document_per_sample, "cu_seqlens": bounds}):
    model.train()
    first = masks(**options)
    draws = first.numel()
    # Five standard deviations of so many draws.
    margin = 5 * (share * (1 - share) / draws) ** 0.5
    dropped = 1 - first.float().mean().item()
    assert abs(dropped - share) < margin, (dropped, margin)
    assert torch.equal(masks(**options), first), "the same seed must draw the same mask"
    loose = 0.03
    assert abs(alike(masks(step=1, **options), first) - independent) < loose
    layers, heads = (first.unbind(dim) for dim in (0, 2))
    for parts in (first.unbind(0), first.unbind(1)[:2], first.unbind(2)):
        assert abs(alike(parts[0], parts[1]) - independent) < loose, "layers, samples and heads draw their own"
    if ranks.world_size > 1:
        everyone = [torch.empty_like(first, dtype=torch.uint8) for _ in range(ranks.world_size)]
        dist.all_gather(everyone, first.to(torch.uint8))
        assert abs(alike(*everyone) - independent) < loose, "another tensor rank must draw another mask"
    model.eval()
    assert masks(**options).all(), "nothing is dropped in an evaluation"
    print(f"dropped {dropped:.4f} of {draws}, margin {margin:.4f}")
shut_down()
"""


@pytest.mark.parametrize(
    ("backend", "layout"),
    [
        pytest.param("sdpa", [TENSOR], id="TP=2"),
        pytest.param("sdpa", [], id="one process", marks=pytest.mark.slow),
        pytest.param("sdpa", [TENSOR, SEQUENCE], id="TP=2, sequence", marks=pytest.mark.slow),
        # The promise is megatron-core's own.
        pytest.param("unfused", [TENSOR], id="unfused, TP=2", marks=pytest.mark.slow),
    ],
)
def test_dropout_drops_its_share_by_the_seed_and_each_tensor_rank_its_own(
    run_python: Callable[..., str], backend: str, layout: list[str]
) -> None:
    processes = 2 if TENSOR in layout else 1
    shown = run_python(PREPARE + DROPOUT, processes=processes, arguments=[backend, *layout])
    print(shown)
    assert shown.count("dropped") == 2 * processes
