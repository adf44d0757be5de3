"""Time, cost, refusals and suggestions of a plan."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from retrieva_pretrain.errors import RecipeError
from retrieva_pretrain.planning.hardware import GIB, H100
from retrieva_pretrain.planning.limits import refuse_impossible
from retrieva_pretrain.planning.plan import Plan, make_plan
from retrieva_pretrain.planning.suggest import suggest
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe
from tests.planning.retrieva_plan import REPOSITORY, retrieva_plan

REFERENCE = REPOSITORY / "recipes" / "retrievabert-1.3b.yaml"


@pytest.fixture
def tokenizer(llm_jp_model: Path) -> str:
    return f"tokenizer.model={llm_jp_model}"


def reference(*overrides: str) -> Recipe:
    return load_yaml(Recipe, REFERENCE, list(overrides))


def test_the_published_run_adds_up(tokenizer: str) -> None:
    plan = make_plan(reference(tokenizer), 32)
    assert (plan.steps, plan.tokens, plan.parameters) == (454_000, 187_301_888_000, 1_301_388_032)
    assert plan.run is not None and plan.run.time is not None
    stages = [stage.cost for stage in plan.stages]
    operations = sum(
        s.tokens * c.flops_per_token.total for s, c in zip(plan.stages, stages, strict=True) if c
    )
    expected = operations / (32 * 989e12 * 0.35)
    assert plan.run.time.expected == pytest.approx(expected)
    assert plan.run.time.shortest < plan.run.time.expected < plan.run.time.longest
    assert plan.run.node_hours == pytest.approx(4 * expected / 3600)


def test_a_cluster_with_a_price_and_a_walltime_tells_jobs_and_what_they_cost(tokenizer: str) -> None:
    hardware = replace(H100, walltime=86_400, node_hour_price=2.5, price_unit="points")
    plan = make_plan(reference(tokenizer), 8, hardware)
    assert plan.run is not None and plan.run.time is not None and plan.run.node_hours is not None
    assert plan.run.price == pytest.approx(2.5 * plan.run.node_hours)
    assert plan.run.jobs == -(-int(plan.run.time.expected) // 86_400)
    with pytest.raises(RecipeError, match=r"a job may take 24 h.*--one-job.*in one job it needs 64 GPUs"):
        refuse_impossible(reference(tokenizer), plan, one_job=True)
    refuse_impossible(reference(tokenizer), plan)


def refusal(plan: Plan, recipe: Recipe) -> str:
    with pytest.raises(RecipeError) as caught:
        refuse_impossible(recipe, plan)
    return str(caught.value)


def test_what_does_not_fit_is_refused_with_what_does(tokenizer: str) -> None:
    unfused = [tokenizer, "kernels.attention_backend=unfused", "curriculum.0.max_micro_batch_size=32"]
    unfused += ["curriculum.1.max_micro_batch_size=16", "curriculum.2.max_micro_batch_size=8"]
    unfused += ["curriculum.3.max_micro_batch_size=4"]
    recipe = reference(*unfused)
    message = refusal(make_plan(recipe, 8), recipe)
    assert "curriculum.3: length 2048 takes" in message
    assert "max_micro_batch_size 1, or recompute_granularity selective" in message
    for way in (["curriculum.3.max_micro_batch_size=1"], ["curriculum.3.recompute_granularity=selective"]):
        mended = reference(*unfused, *way)
        refuse_impossible(mended, make_plan(mended, 8))


def test_a_small_gpu_is_refused_the_model_itself(tokenizer: str) -> None:
    recipe = reference(tokenizer)
    plan = make_plan(recipe, 1, replace(H100, gpu_memory=16 * GIB))
    assert "No micro-batch fits" in refusal(plan, recipe)


def test_more_nodes_than_a_job_may_have_are_refused(tokenizer: str) -> None:
    recipe = reference(tokenizer)
    plan = make_plan(recipe, 64, replace(H100, max_nodes=5))
    assert "8 nodes are over the 5 that a job may have; 32 GPUs would do" in refusal(plan, recipe)


def test_a_suggestion_fits_and_grows_with_the_memory(tokenizer: str) -> None:
    unfused = "kernels.attention_backend=unfused"
    recipe = reference(tokenizer, unfused)
    found = {
        size: suggest(recipe, 8, replace(H100, gpu_memory=size * GIB), 99_584, "local") for size in (24, 80)
    }
    for size, suggestion in found.items():
        changed = reference(tokenizer, unfused, *suggestion.overrides(recipe))
        refuse_impossible(changed, make_plan(changed, 8, replace(H100, gpu_memory=size * GIB)))
    assert found[80].relative_seconds < found[24].relative_seconds
    batches = [[stage.micro_batch_size for stage in found[size].stages] for size in (24, 80)]
    assert all(small <= large for small, large in zip(*batches, strict=True))


def test_a_model_too_large_for_one_gpu_is_divided(tokenizer: str) -> None:
    large = reference(tokenizer, "model.hidden_size=6144", "model.ffn_hidden_size=16384")
    found = suggest(large, 32, H100, 99_584, "local")
    assert found.tensor_model_parallel_size * found.pipeline_model_parallel_size > 1
    changed = reference(
        tokenizer, "model.hidden_size=6144", "model.ffn_hidden_size=16384", *found.overrides(large)
    )
    refuse_impossible(changed, make_plan(changed, 32))
    with pytest.raises(RecipeError, match="nothing fits 1 GPUs"):
        suggest(large, 1, H100, 99_584, "local")


def test_the_command_line_shows_all_of_it(tokenizer: str, tmp_path: Path) -> None:
    shown = retrieva_plan(str(REFERENCE), "--cluster", "tsubame4", "--nodes", "4", tokenizer, columns=80)
    assert shown.returncode == 0, shown.stderr
    assert max(map(len, shown.stdout.splitlines())) <= 80
    words = " ".join(shown.stdout.split())
    for text in ("1,301,388,032", "187.3 B", "GiB/GPU", "jobs", "node-hours", "assumed, not measured"):
        assert text in words, text
    assert "without scores" in retrieva_plan(str(REFERENCE), "--attention", "flash", tokenizer).stdout
    refused = retrieva_plan(str(REFERENCE), tokenizer, "kernels.attention_backend=unfused", "--gpus", "8")
    assert refused.returncode == 1 and "What fits" in refused.stderr and "GiB/GPU" in refused.stdout
    plan = json.loads(retrieva_plan(str(REFERENCE), tokenizer, "--gpus", "8", "--json").stdout)
    assert plan["stages"][3]["cost"]["memory"]["logits"] > 0


def test_several_numbers_of_nodes_stand_side_by_side(tokenizer: str) -> None:
    arguments = [str(REFERENCE), "--cluster", "tsubame4", "--what-if", "nodes=1,2,3", tokenizer]
    shown = retrieva_plan(*arguments)
    assert shown.returncode == 0, shown.stderr
    assert "3 nodes: retrievabert-1.3b cannot run on 12 GPUs" in " ".join(shown.stdout.split())
    rows = json.loads(retrieva_plan(*arguments, "--json").stdout)
    assert [row["gpus"] for row in rows] == [4, 8, 12] and rows[2]["plan"] is None
    assert "write nodes=1,2,4,8" in retrieva_plan(str(REFERENCE), "--what-if", "1,2").stderr


def test_the_curriculum_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the report extra is not installed")
    for name in ("curriculum.png", "curriculum.svg"):
        assert retrieva_plan(str(REFERENCE), "--plot", str(tmp_path / name)).returncode == 0
        assert (tmp_path / name).stat().st_size > 10_000
    refused = retrieva_plan(str(REFERENCE), "--plot", str(tmp_path / "curriculum.txt"))
    assert refused.returncode == 1 and "ends in .png or .svg" in refused.stderr


def test_what_is_suggested_is_a_recipe_that_loads(tokenizer: str) -> None:
    """Attention inside documents through Transformer Engine does not go with sequence parallelism."""
    choices = ["data.reset_attention_mask=true", "kernels.transformer_impl=transformer_engine"]
    small = replace(H100, gpu_memory=24 * GIB)
    found = suggest(reference(*choices), 8, small, 100_096, "flash").overrides(reference(*choices))
    assert reference(*choices, *found).parallelism.sequence_parallel is False
