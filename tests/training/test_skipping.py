"""Steps that would do harm leave the weights alone, on all processes alike, and the log says what was in them."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from retrieva_pretrain.data.batches import TrainingSamples
from retrieva_pretrain.data.corpora import Corpora
from retrieva_pretrain.errors import RetrievaError
from retrieva_pretrain.launch.torchrun import kill_tree
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import FaultsConfig, Recipe
from retrieva_pretrain.training.skipping import SkipPolicy

if TYPE_CHECKING:
    from tests.training.conftest import World

# So narrow that ordinary steps are skipped.
NARROW = ["faults.max_grad_norm_factor=1.02", "faults.grad_norm_window=2", "faults.max_consecutive_skips=24"]


def steps_of(records: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    return {r["step"]: r for r in records if r["kind"] == "train"}


def skips_of(world: World, name: str) -> list[dict[str, Any]]:
    path = world.folder / "runs" / name / "skips.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.engine
@pytest.mark.slow
def test_skipped_steps_are_the_same_after_a_kill_and_their_documents_are_logged(world: World) -> None:
    undisturbed = steps_of(world.train("name=undisturbed", *NARROW))
    skipped = [step for step, record in undisturbed.items() if record["skipped"]]
    assert 1 <= len(skipped) < len(undisturbed) - 4, skipped
    process = world.start("name=killed", *NARROW, "checkpoint.async_save=false")
    target = random.randint(skipped[0], len(undisturbed) - 2)
    world.wait_until("a step", lambda: world.has_taken(target, "killed"), process)
    kill_tree(process)
    resumed = steps_of(world.train("name=killed", *NARROW))
    for step, record in undisturbed.items():
        for figure in ("loss", "grad_norm", "skipped"):
            assert resumed[step][figure] == record[figure], (step, figure)

    recipe = load_yaml(Recipe, world.recipe)
    samples = TrainingSamples(recipe, Corpora.open(recipe))
    told = skips_of(world, "undisturbed")
    assert [line["step"] for line in told] == skipped
    for line in told:
        expected: dict[str, set[int]] = {}
        for number in samples.step(line["step"] - 1).tolist():
            found = samples.provenance(number)
            expected.setdefault(found.corpus, set()).update(found.documents)
        assert {corpus: set(numbers) for corpus, numbers in line["documents"].items()} == expected
        numbers = {sample["sample"] for sample in line["worst_samples"]}
        assert numbers == set(samples.step(line["step"] - 1).tolist())  # eight samples a step
        losses = [sample["loss"] for sample in line["worst_samples"]]
        assert losses == sorted(losses, reverse=True)
        assert "over 1.02 times" in line["reason"]


@pytest.mark.engine
def test_a_run_that_diverges_ends_and_says_what_to_look_at(world: World) -> None:
    process = world.start("optimizer.lr=1e30", "precision=fp32", "faults.max_consecutive_skips=3")
    assert process.wait(timeout=200) == 1
    log = (world.folder / "train.log").read_text()
    assert log.count("3 steps in a row were skipped") == 1
    assert "Traceback" not in log.split("3 steps in a row were skipped")[0]
    told = skips_of(world, "small")
    assert len(told) == 3
    assert all("nan" in line["reason"] or "inf" in line["reason"] for line in told)
    ended = json.loads((world.folder / "runs" / "small" / "exit.json").read_text())
    assert (ended["reason"], ended["code"]) == ("failed", 1)


def judged(policy: SkipPolicy, norms: list[float]) -> list[bool]:
    """Feed gradient norms to a policy; returns which steps it skipped."""
    skipped = []
    for norm in norms:
        reason = policy.judge(1.0, norm)
        if reason is None:
            policy.took(norm)
        else:
            policy.skip()
        skipped.append(reason is not None)
    return skipped


def test_a_norm_is_compared_with_the_median_of_the_steps_that_were_taken() -> None:
    policy = SkipPolicy(FaultsConfig(max_grad_norm_factor=4.0, grad_norm_window=3))
    # Nothing is compared before the window is full; a skipped norm never enters it.
    assert judged(policy, [1.0, 9.0, 1.0, 4.1, 1.0, 4.1, math.inf, math.nan]) == [
        *(False, False, False, True, False, True, True, True)
    ]
    assert (policy.skipped, policy.in_a_row) == (4, 3)


def test_without_a_factor_only_what_is_not_finite_is_skipped() -> None:
    policy = SkipPolicy(FaultsConfig())
    assert judged(policy, [1.0] * 200 + [1e30]) == [False] * 201
    assert policy.judge(math.nan, None) == "the loss is nan"
    assert policy.judge(math.inf, None) == "the loss is inf"
    assert policy.judge(1.0, None) is None


def test_a_policy_goes_on_from_a_checkpoint_as_if_nothing_had_happened() -> None:
    draw = np.random.default_rng(0)
    norms = draw.lognormal(size=300).tolist()
    config = FaultsConfig(max_grad_norm_factor=2.0, grad_norm_window=16, max_consecutive_skips=300)
    whole = judged(SkipPolicy(config), norms)
    assert 10 < sum(whole) < 200
    for cut in (0, 1, 15, 16, 17, 200):
        first = SkipPolicy(config)
        before = judged(first, norms[:cut])
        second = SkipPolicy(config)
        second.load_state(json.loads(json.dumps(first.state())))
        assert before + judged(second, norms[cut:]) == whole


def test_too_many_in_a_row_end_the_run() -> None:
    policy = SkipPolicy(FaultsConfig(max_consecutive_skips=2))
    policy.skip()
    policy.refuse_endless(5, "the loss is nan")
    policy.took(1.0)
    policy.skip()
    policy.refuse_endless(7, "the loss is nan")
    policy.skip()
    with pytest.raises(RetrievaError, match=r"2 steps in a row.*step 9, because the loss is nan"):
        policy.refuse_endless(8, "the loss is nan")


def test_the_recipe_of_the_1_3_b_model_declares_a_factor() -> None:
    recipe = load_yaml(Recipe, Path(__file__).parents[2] / "recipes" / "retrievabert-1.3b.yaml")
    assert recipe.faults.max_grad_norm_factor is not None
