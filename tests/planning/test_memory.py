"""The memory model, against what autograd saves in the built model and what the built model holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from retrieva_pretrain.planning.memory import MemoryPlan, stage_memory
from retrieva_pretrain.planning.parameters import count_parameters, rank_parameters
from retrieva_pretrain.planning.saving import gather_bytes
from retrieva_pretrain.recipe.layout import stage_layouts
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe

REFERENCE = Path(__file__).resolve().parents[2] / "recipes" / "retrievabert-1.3b.yaml"
VOCABULARY = 99_584
# The overlaps need the distributed optimizer.
NO_OVERLAP = ("parallelism.overlap_param_gather=false", "parallelism.overlap_grad_reduce=false")

# Many positions before few layers: what is counted is what the formulas name, not small change.
MEASURE = """
from pathlib import Path
import torch
from benchmarks.saved_activations import saved_bytes
from megatron.core import parallel_state
from megatron.core.utils import unwrap_model
from retrieva_pretrain.tracing.cuda_kernels import dropout
from retrieva_pretrain.model.build import build_model, wrap_model
from retrieva_pretrain.model.recompute import set_recompute
from retrieva_pretrain.planning.activations import count_activations, kept_by_layers
from retrieva_pretrain.recipe.layout import scored_slots
from retrieva_pretrain.planning.parameters import rank_parameters
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.training.distributed import initialize, shut_down

VOCABULARY, SAMPLES = 1024, 3
torch.nn.functional.dropout = dropout  # with CUDA's masks of bytes

common = ["model.num_layers=4", "model.max_position_embeddings=512", "kernels.attention_backend=unfused",
    "kernels.bias_activation_fusion=false", "kernels.bias_dropout_fusion=false", *COMMON]
started = False
for settings in SETTINGS:
    length, *rest = settings
    recipe = load_yaml(Recipe, Path("recipes/demo.yaml"), [
        *common, f"curriculum=[{{seq_length: {length}, train_iters: 4, max_micro_batch_size: 4}}]", *rest])
    if not started:
        initialize(recipe)
        started = True
    model = wrap_model(recipe, build_model(recipe, VOCABULARY))
    inner = unwrap_model(model)
    held = sum(p.numel() for p in inner.parameters())
    assert held == rank_parameters(recipe, VOCABULARY, 0), (settings, held)
    slots = scored_slots(recipe.masking_probability(0), recipe.curriculum[0].seq_length)
    ids = torch.randint(8, 500, (SAMPLES, length))
    positions = torch.arange(slots).expand(SAMPLES, slots)
    arguments = dict(input_ids=ids, scored_positions=positions, labels=ids[:, :slots].contiguous())
    one = count_activations(recipe, 0, VOCABULARY)
    for kind, layers in ((None, None), ("selective", None), ("full", None), ("full", 1)):
        stage = recipe.curriculum[0].model_copy(
            update={"recompute_granularity": kind, "recompute_num_layers": layers})
        set_recompute(model, stage)
        found = saved_bytes(lambda: model(**arguments), model.parameters())
        planned = SAMPLES * (
            kept_by_layers(stage, one, recipe.model.num_layers) + one.embedding + one.head + one.logits)
        print(settings, kind, layers, f"{planned / found:.3f}")
        assert abs(planned / found - 1) < 0.1, (settings, kind, layers, planned, found)
shut_down()
"""
ONE_PROCESS = [
    (128, "precision=bf16"),
    (512, "precision=bf16", "model.num_query_groups=1", "model.hidden_size=128", "model.ffn_hidden_size=320"),
    (256, "precision=fp32", "model.num_query_groups=4"),
    (256, "precision=bf16", "model.hidden_dropout=0.0", "model.attention_dropout=0.0"),
    (
        128,
        "precision=bf16",
        "model.share_embeddings_and_output_weights=false",
        "objective.masking_probability=0.4",
    ),
    (64, "precision=bf16", "kernels.bias_activation_fusion=true", "kernels.bias_dropout_fusion=true"),
]
TWO_PROCESSES = [(256, "precision=bf16"), (128, "precision=fp32", "model.attention_dropout=0.0")]


def measure(settings: list[tuple[object, ...]], common: list[str]) -> str:
    return MEASURE.replace("SETTINGS", repr(settings)).replace("*COMMON", f"*{common!r}")


@pytest.mark.engine
def test_planned_activations_are_what_autograd_saves_within_a_tenth(run_python: Callable[..., str]) -> None:
    run_python(measure(ONE_PROCESS, ["model.num_attention_heads=4"]))


@pytest.mark.engine
@pytest.mark.parametrize("sequence_parallel", [pytest.param("false", marks=pytest.mark.slow), "true"])
def test_so_they_are_where_two_processes_share_the_layers(
    run_python: Callable[..., str], sequence_parallel: str
) -> None:
    layout = [
        "model.num_attention_heads=4",
        "parallelism.tensor_model_parallel_size=2",
        f"parallelism.sequence_parallel={sequence_parallel}",
    ]
    run_python(measure(TWO_PROCESSES, layout), processes=2)


def planned(*overrides: str, gpus: int = 8, stage: int = 3, attention: str = "unfused") -> MemoryPlan:
    recipe = load_yaml(Recipe, REFERENCE, [f"kernels.attention_backend={attention}", *overrides])
    return stage_memory(recipe, stage, stage_layouts(recipe, gpus)[stage], VOCABULARY)


def test_the_optimizer_is_shared_out_and_the_rest_is_not() -> None:
    parameters = count_parameters(load_yaml(Recipe, REFERENCE).model, VOCABULARY).total
    eight, thirty_two = planned(gpus=8), planned(gpus=32)
    assert eight.weights == thirty_two.weights == 2 * parameters
    assert eight.gradients == 4 * parameters
    assert eight.optimizer == -(-12 * parameters // 8)
    assert thirty_two.optimizer == -(-12 * parameters // 32)
    assert planned("parallelism.use_distributed_optimizer=false", *NO_OVERLAP).optimizer == 12 * parameters
    assert planned("precision=fp32").optimizer == 8 * parameters // 8


def test_recomputation_keeps_less_where_scores_are_kept() -> None:
    kept = {
        kind: planned(f"curriculum.3.recompute_granularity={kind}").activations
        for kind in ("null", "selective", "full")
    }
    assert kept["null"] > 5 * kept["selective"] and kept["selective"] > 5 * kept["full"]


def test_attention_without_scores_ignores_selective_recomputation() -> None:
    ignored = planned("curriculum.3.recompute_granularity=selective", attention="sdpa")
    assert ignored == planned("curriculum.3.recompute_granularity=null", attention="sdpa")
    assert ignored.recomputation == 0


def test_scores_take_nearly_all_of_a_long_samples_memory() -> None:
    assert planned(attention="unfused").activations > 5 * planned(attention="sdpa").activations


def test_fusions_keep_two_fifths_less_of_swiglu() -> None:
    fused, unfused = (
        planned(f"kernels.bias_activation_fusion={on}", attention="sdpa") for on in ("true", "false")
    )
    # Per position and layer: 3 f or 5 f elements of two bytes.
    assert unfused.activations - fused.activations == 2 * 2 * 4096 * 2048 * 8 * 48


def test_a_step_holds_the_most_in_the_head_or_in_a_layer_but_never_in_both() -> None:
    head, layer = planned(attention="sdpa"), planned("curriculum.3.recompute_granularity=full")
    assert head.logits > 0 and head.recomputation == head.backward == 0
    assert layer.logits == 0 and layer.recomputation > 0 and layer.backward > 0
    for memory in (head, layer):
        assert memory.step == memory.static + sum(
            (memory.activations, memory.recomputation, memory.backward, memory.logits)
        )


def test_a_save_counts_where_it_needs_more_than_a_step() -> None:
    parameters = count_parameters(load_yaml(Recipe, REFERENCE).model, VOCABULARY).total
    small = planned("curriculum.0.max_micro_batch_size=1", stage=0, attention="sdpa")
    embedding = VOCABULARY * 1536
    assert (
        small.gather
        == gather_bytes(parameters, embedding, 8, is_distributed=True)
        == 12 * (-(-parameters // 8) + 2 * embedding)
    )
    assert small.total == small.static + small.gather > small.step
    large = planned(stage=0, attention="sdpa")
    assert large.total == large.step
    assert planned("parallelism.use_distributed_optimizer=false", *NO_OVERLAP).gather == 0


def test_parts_of_a_divided_model_add_up_to_it() -> None:
    whole = count_parameters(load_yaml(Recipe, REFERENCE).model, VOCABULARY).total
    divided = load_yaml(Recipe, REFERENCE, ["parallelism.pipeline_model_parallel_size=4"])
    parts = [rank_parameters(divided, VOCABULARY, rank) for rank in range(4)]
    # The last stage has the tied matrix a second time.
    assert sum(parts) == whole + VOCABULARY * 1536
    assert rank_parameters(load_yaml(Recipe, REFERENCE), VOCABULARY, 0) == whole
