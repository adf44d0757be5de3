"""Time, cost, refusals and suggestions of a plan."""

from __future__ import annotations

import json
import re
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
    plan = make_plan(reference(tokenizer), 32, mfu=0.35)
    assert (plan.steps, plan.tokens, plan.parameters) == (454_000, 187_301_888_000, 1_301_388_032)
    assert plan.run is not None and plan.run.time is not None
    operations = sum(s.tokens * s.cost.flops_per_token.total for s in plan.stages if s.cost)
    expected = operations / (32 * 989e12 * 0.35)
    assert plan.run.time.expected == pytest.approx(expected)
    assert plan.run.time.shortest == pytest.approx(expected * 0.35 / 0.45)
    assert plan.run.time.longest == pytest.approx(expected * 0.35 / 0.25)
    assert plan.run.node_hours == pytest.approx(4 * expected / 3600)
    assert {speed.source for speed in plan.speeds} == {"assumed"}


def test_an_assumed_mfu_pays_for_what_is_computed_again(tokenizer: str) -> None:
    """The attention of the selective stages is computed twice; where no scores are kept, it is not."""
    choices = [f"curriculum.{i}.recompute_granularity=selective" for i in range(4)]
    unfused = make_plan(reference(tokenizer, "kernels.attention_backend=unfused", *choices), 32, mfu=0.35)
    flash = make_plan(reference(tokenizer, *choices), 32, mfu=0.35)
    for kept, again in zip(flash.stages, unfused.stages, strict=True):
        assert kept.cost and kept.cost.time and again.cost and again.cost.time
        flops = kept.cost.flops_per_token
        more = 1 + flops.attention / 3 / flops.total
        assert again.cost.time.expected == pytest.approx(more * kept.cost.time.expected)
    assert [stage.recompute for stage in flash.stages] == ["none"] * 4
    assert len(flash.ignored) == 4 and not unfused.ignored


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
    """Recomputing the scores is offered where there are any."""
    others = [f"curriculum.{stage}.recompute_granularity=full" for stage in range(3)]
    too_much = [*others, "curriculum.3.max_micro_batch_size=32", "curriculum.3.recompute_granularity=null"]
    for kernel, kinds in (("unfused", ("selective", "full")), ("sdpa", ("full",))):
        chosen = [f"kernels.attention_backend={kernel}", *too_much]
        recipe = reference(tokenizer, *chosen)
        message = refusal(make_plan(recipe, 8), recipe)
        assert "curriculum.3: length 2048 takes" in message
        found = re.search(r"What fits: max_micro_batch_size (\d+)", message)
        assert found is not None, message
        assert ("recompute_granularity selective" in message) == ("selective" in kinds)
        for way in (
            [f"curriculum.3.max_micro_batch_size={found[1]}"],
            ["curriculum.3.recompute_granularity=full"],
        ):
            mended = reference(tokenizer, *chosen, *way)
            refuse_impossible(mended, make_plan(mended, 8))


def test_one_gpu_holds_the_shipped_micro_batches_and_no_larger_ones(tokenizer: str) -> None:
    recipe = reference(tokenizer)
    plan = make_plan(recipe, 1)
    assert plan.memory is not None
    assert plan.memory.total / GIB == pytest.approx(57.4, abs=0.1)  # 21.8 of it are there between two steps
    refuse_impossible(recipe, plan)
    doubled = reference(tokenizer, "curriculum.0.max_micro_batch_size=256")
    assert "What fits: max_micro_batch_size 128" in refusal(make_plan(doubled, 1), doubled)


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
    found = {size: suggest(recipe, 8, replace(H100, gpu_memory=size * GIB), 99_584) for size in (24, 80)}
    for size, suggestion in found.items():
        changed = reference(tokenizer, unfused, *suggestion.overrides(recipe))
        refuse_impossible(changed, make_plan(changed, 8, replace(H100, gpu_memory=size * GIB)))
    assert found[80].seconds < found[24].seconds
    for small, large in zip(found[24].stages, found[80].stages, strict=True):
        assert large.seconds <= small.seconds and large.memory.total > small.memory.total


def test_a_model_too_large_for_one_gpu_is_divided(tokenizer: str) -> None:
    sizes = ["model.hidden_size=6144", "model.ffn_hidden_size=16384", "kernels.attention_backend=unfused"]
    large = reference(tokenizer, *sizes)
    found = suggest(large, 32, H100, 99_584)
    assert found.tensor_model_parallel_size * found.pipeline_model_parallel_size > 1
    changed = reference(tokenizer, *sizes, *found.overrides(large))
    refuse_impossible(changed, make_plan(changed, 32))
    with pytest.raises(RecipeError, match="nothing fits 1 GPUs"):
        suggest(large, 1, H100, 99_584)


def test_the_command_line_shows_all_of_it(tokenizer: str, tmp_path: Path) -> None:
    shown = retrieva_plan(str(REFERENCE), "--cluster", "tsubame4", "--nodes", "4", tokenizer, columns=80)
    assert shown.returncode == 0, shown.stderr
    assert max(map(len, shown.stdout.splitlines())) <= 80
    words = " ".join(shown.stdout.split())
    for text in ("1,301,388,032", "187.3 B", "GiB/GPU", "jobs", "node-hours", "not measured", "fits: "):
        assert text in words, text
    assert "sdpa attention keeps no scores" in words
    unfused = retrieva_plan(str(REFERENCE), "kernels.attention_backend=unfused", tokenizer)
    assert "unfused attention keeps scores" in " ".join(unfused.stdout.split())
    refused = retrieva_plan(str(REFERENCE), tokenizer, "curriculum.3.max_micro_batch_size=32", "--gpus", "8")
    assert refused.returncode == 1 and "What fits" in refused.stderr and "GiB/GPU" in refused.stdout
    plan = json.loads(retrieva_plan(str(REFERENCE), tokenizer, "--gpus", "8", "--json").stdout)
    assert plan["stages"][3]["cost"]["memory"]["logits"] > 0


def test_a_plan_opens_with_its_answer(tokenizer: str, tmp_path: Path) -> None:
    profile = tmp_path / "priced.yaml"
    bundled = (REPOSITORY / "recipes" / "clusters" / "slurm-h100.yaml").read_text(encoding="utf-8")
    profile.write_text(bundled + "node_hour_price: 30\nprice_unit: EUR\n", encoding="utf-8")
    shown = retrieva_plan(str(REFERENCE), "--cluster", str(profile), "--nodes", "2", tokenizer).stdout
    lines = shown.splitlines()
    assert lines[0].split(",")[0] == "retrievabert-1.3b on 16 GPUs"
    head = dict(line.split(maxsplit=1) for line in lines[1:7])
    assert re.match(r"\d+d\d\dh \(.* to .*\)", head["time"])
    assert re.match(r"[\d.]+ GPU-days, \d+ node-hours on 2 nodes = [\d,]+ EUR", head["cost"])
    assert re.match(r"fits: [\d.]+ of 75.2 GiB per GPU", head["memory"])
    assert head["figures"].startswith("modelled") and head["assumed"].startswith("100 GB/s between nodes")
    titles = ["Model and batch", "Stages", "Time", "Memory of a GPU, in GiB", "Corpora"]
    assert [line for line in lines if line in titles] == titles
    small = retrieva_plan(str(REFERENCE), "--gpus", "1", tokenizer, "model.hidden_size=6144")
    assert small.returncode == 1 and "does NOT fit" in small.stdout.splitlines()[3]


def test_a_plan_without_the_tokenizer_takes_the_size_that_it_is_given(tokenizer: str) -> None:
    gone = "tokenizer.model=gone.model"
    assert "not known without the size of the vocabulary" in retrieva_plan(str(REFERENCE), gone).stdout
    given = retrieva_plan(str(REFERENCE), gone, "--vocab-size", "99574", "--json").stdout
    with_file = json.loads(retrieva_plan(str(REFERENCE), tokenizer, "--json").stdout)
    assert json.loads(given)["stages"] == with_file["stages"]


def test_several_numbers_of_nodes_stand_side_by_side(tokenizer: str) -> None:
    arguments = [str(REFERENCE), "--cluster", "tsubame4", "--what-if", "nodes=1,2,3", tokenizer]
    shown = retrieva_plan(*arguments)
    assert shown.returncode == 0, shown.stderr
    assert "3 nodes: retrievabert-1.3b cannot run on 12 GPUs" in " ".join(shown.stdout.split())
    rows = json.loads(retrieva_plan(*arguments, "--json").stdout)
    assert [row["gpus"] for row in rows] == [4, 8, 12] and rows[2]["plan"] is None
    table = retrieva_plan(*arguments, columns=80).stdout
    assert "128/64/32/8" in table and max(map(len, table.splitlines())) <= 80
    none = retrieva_plan(str(REFERENCE), tokenizer, "--what-if", "nodes=3,1000")
    assert none.returncode == 1 and "cannot run on any of these numbers of nodes" in none.stderr
    assert "write nodes=1,2,4,8" in retrieva_plan(str(REFERENCE), "--what-if", "1,2").stderr


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        (["--what-if", "nodes=1"], "--what-if: needs the size of the vocabulary"),
        (["--suggest", "--gpus", "8"], "--suggest: needs the size of the vocabulary"),
        (["--trace"], "--trace: needs the size of the vocabulary"),
        (["--one-job", "--cluster", "tsubame4"], "--one-job: the time is not known without the size of"),
        (["--one-job", "--vocab-size", "99574"], "--one-job: H100 SXM has no walltime"),
        (["--what-if", "nodes=1", "--gpus", "8"], "--what-if and --gpus: give one of them"),
        (["--what-if", "nodes=1", "--suggest"], "--what-if and --suggest: give one of them"),
        (["--attention", "fast"], "--attention: fast is neither unfused nor sdpa"),
    ],
)
def test_a_question_that_cannot_be_answered_is_refused(words: list[str], refusal: str) -> None:
    refused = retrieva_plan(str(REFERENCE), "tokenizer.model=not-here.model", *words)
    assert refused.returncode == 1
    assert refusal in " ".join(refused.stderr.split())
    if "needs the size" in refusal:
        assert "tokenizer.model not-here.model is not here; give --vocab-size" in refused.stderr


def test_a_vocabulary_of_another_size_than_the_tokenizers_is_not_taken(tokenizer: str) -> None:
    shown = retrieva_plan(str(REFERENCE), tokenizer, "--vocab-size", "5")
    assert "99,574 pieces" in shown.stdout
    assert "--vocab-size is ignored: the recipe's tokenizer has 99,574 pieces" in shown.stderr


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
    found = suggest(reference(*choices), 8, small, 100_096).overrides(reference(*choices))
    assert reference(*choices, *found).parallelism.sequence_parallel is False
