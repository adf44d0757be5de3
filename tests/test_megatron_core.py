"""What this project uses of megatron-core, by name: where a release moves or renames it, this fails first, and says so.

The names are written out here, so that a reader sees what we lean on; that none is missing is read from the code itself.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.engine

PACKAGE = Path(__file__).resolve().parent.parent / "retrieva_pretrain"
# The only file that may ask which release it runs under.
KNOWS_RELEASES = "training/shards.py"

NAMES = {
    "megatron.core": "dist_checkpointing parallel_state tensor_parallel",
    "megatron.core.dist_checkpointing": "load save",
    "megatron.core.dist_checkpointing.core": "CheckpointingConfig save_config",
    "megatron.core.dist_checkpointing.dict_utils": "nested_values",
    "megatron.core.dist_checkpointing.mapping": (
        "ShardedStateDict ShardedTensor ShardedTensorFactory is_main_replica"
    ),
    "megatron.core.dist_checkpointing.serialization": "get_default_load_sharded_strategy",
    "megatron.core.dist_checkpointing.strategies": "filesystem_async torch",
    "megatron.core.dist_checkpointing.strategies.filesystem_async": "FileSystemWriterAsync _results_queue",
    "megatron.core.dist_checkpointing.strategies.fully_parallel": (
        "FullyParallelLoadStrategyWrapper FullyParallelSaveStrategyWrapper"
    ),
    "megatron.core.dist_checkpointing.strategies.torch": "TorchDistSaveShardedStrategy",
    "megatron.core.distributed": "DistributedDataParallel DistributedDataParallelConfig param_and_grad_buffer",
    "megatron.core.distributed.finalize_model_grads": "finalize_model_grads",
    "megatron.core.distributed.param_and_grad_buffer": "_coalescing_manager",
    "megatron.core.fusions": "fused_bias_dropout fused_bias_swiglu",
    "megatron.core.fusions.fused_bias_dropout": "bias_dropout_add_fused_train",
    "megatron.core.fusions.fused_bias_swiglu": "bias_swiglu bias_swiglu_back",
    "megatron.core.models.bert.bert_layer_specs": "bert_layer_local_spec get_bert_layer_with_transformer_engine_spec",
    "megatron.core.models.bert.bert_model": "BertModel",
    "megatron.core.optimizer": "Adam MegatronOptimizer OptimizerConfig USING_PYTORCH_OPTIMIZER get_megatron_optimizer",
    "megatron.core.optimizer.distrib_optimizer": "Adam DistributedOptimizer HAVE_APEX_OR_TE USING_APEX_OPTIMIZER",
    "megatron.core.optimizer.optimizer": "Float16OptimizerWithFloat16Params",
    "megatron.core.packed_seq_params": "PackedSeqParams",
    "megatron.core.parallel_state": (
        "destroy_model_parallel get_data_parallel_group get_data_parallel_rank get_data_parallel_world_size"
        " get_pipeline_model_parallel_group get_pipeline_model_parallel_last_rank get_global_memory_buffer get_pipeline_model_parallel_rank"
        " get_pipeline_model_parallel_world_size get_tensor_model_parallel_group get_tensor_model_parallel_rank get_tensor_model_parallel_world_size initialize_model_parallel"
        " is_initialized is_pipeline_first_stage is_pipeline_last_stage"
    ),
    "megatron.core.pipeline_parallel": "get_forward_backward_func",
    "megatron.core.tensor_parallel": (
        "gather_from_sequence_parallel_region gather_from_tensor_model_parallel_region get_cuda_rng_tracker layers random"
    ),
    "megatron.core.tensor_parallel.layers": (
        "_grad_accum_fusion_available fused_weight_gradient_mlp_cuda get_tensor_model_parallel_group_if_none"
    ),
    "megatron.core.tensor_parallel.random": (
        "CudaRNGStatesTracker _fork_rng _get_all_rng_states _get_cuda_rng_state _set_all_rng_states _set_cuda_rng_state"
        " model_parallel_cuda_manual_seed"
    ),
    "megatron.core.transformer.enums": "AttnBackend AttnMaskType",
    "megatron.core.transformer.module": "Float16Module MegatronModule",
    "megatron.core.transformer.spec_utils": "build_module",
    "megatron.core.transformer.torch_norm": "WrappedTorchNorm",
    "megatron.core.transformer.transformer_config": "TransformerConfig",
    "megatron.core.utils": "get_tensor_model_parallel_group_if_none unwrap_model",
}
# Of some releases only, and asked for as such.
OF_SOME_RELEASES = {
    "megatron.core.dist_checkpointing.strategies.base": "StrategyAction register_default_strategy",
    "megatron.core.dist_checkpointing.strategies.common": "TorchCommonSaveStrategy",
}
# Set by us on a module of theirs, where they are absent until then.
OURS = {
    ("megatron.core.optimizer", "Adam"),
    ("megatron.core.optimizer.distrib_optimizer", "Adam"),
    ("megatron.core.tensor_parallel.layers", "fused_weight_gradient_mlp_cuda"),
}
MEMBERS = {
    "megatron.core.models.bert.bert_model:BertModel": (
        "_sanity_check_attention_and_get_attn_mask_dimension bert_position_ids compute_language_model_loss embedding"
        " encoder lm_head output_layer post_process pre_process sharded_state_dict shared_embedding_or_output_weight"
    ),
    "megatron.core.distributed:DistributedDataParallel": (
        "_make_forward_pre_hook broadcast_params ddp_config no_sync remove_forward_pre_hook_handles scale_gradients"
        " start_param_sync zero_grad_buffer"
    ),
    "megatron.core.optimizer:MegatronOptimizer": (
        "get_grad_stats_parallel_group get_parameters init_state_fn load_state_dict prepare_grads reload_model_params"
        " sharded_state_dict step_with_ready_grads zero_grad"
    ),
    "megatron.core.optimizer.optimizer:ChainedOptimizer": "chained_optimizers",
    "megatron.core.optimizer.distrib_optimizer:DistributedOptimizer": (
        "_copy_main_params_to_model_params _get_main_param_and_optimizer_states _get_model_param_range_map buffers"
        " data_parallel_group get_parameter_state_dp_zero is_stub_optimizer model_float16_groups model_fp32_groups"
        " model_param_gbuf_map shard_fp32_from_float16_groups shard_fp32_groups sharded_param_state_fully_reshardable"
    ),
    "megatron.core.optimizer.optimizer:Float16OptimizerWithFloat16Params": (
        "_copy_main_params_to_model_params _get_model_and_main_params_data_float16 is_stub_optimizer"
    ),
    "megatron.core.distributed.param_and_grad_buffer:_ParamAndGradBucket": "grad_data numel_unpadded offset param_data",
    "megatron.core.distributed.param_and_grad_buffer:_ParamAndGradBuffer": "buckets numel param_index_map",
    "megatron.core.tensor_parallel:ColumnParallelLinear": "allreduce_dgrad sequence_parallel",
    "megatron.core.transformer.attention:Attention": "checkpoint_core_attention",
    "megatron.core.dist_checkpointing.strategies.filesystem_async:FileSystemWriterAsync": (
        "finish preload_tensors write_buckets write_preloaded_data"
    ),
    "megatron.core.dist_checkpointing.strategies.torch:TorchDistSaveShardedStrategy": (
        "_get_save_and_finalize_callbacks thread_count"
    ),
}
# Methods that were renamed: each release has one of them.
RENAMED_MEMBERS = {
    "megatron.core.optimizer:MegatronOptimizer": "get_main_grads_for_grad_norm get_grads_for_grad_norm",
}
# Calls whose keyword arguments must be fields of a configuration.
CONFIGURATIONS = {
    "megatron.core.distributed:DistributedDataParallelConfig",
    "megatron.core.optimizer:OptimizerConfig",
    "megatron.core.transformer.transformer_config:TransformerConfig",
    "megatron.core.packed_seq_params:PackedSeqParams",
}


def pairs(table: dict[str, str]) -> set[tuple[str, str]]:
    return {(module, name) for module, names in table.items() for name in names.split()}


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "megatron" in text:
            yield path, ast.parse(text)


def used_names() -> set[tuple[str, str]]:
    """What the code imports of megatron-core, and what it takes of modules that it imports."""
    found: set[tuple[str, str]] = set()
    for _, tree in trees():
        modules: dict[str, str] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("megatron"):
                for alias in node.names:
                    found.add((str(node.module), alias.name))
                    if is_module(f"{node.module}.{alias.name}"):
                        modules[alias.asname or alias.name] = f"{node.module}.{alias.name}"
            elif isinstance(node, ast.Import):
                modules |= {
                    alias.asname or alias.name: alias.name
                    for alias in node.names
                    if alias.name.startswith("megatron")
                }
        aliases = {
            target.id: modules[node.value.id]
            for node in ast.walk(tree)
            if isinstance(node, ast.AnnAssign)
            and isinstance(node.value, ast.Name)
            and node.value.id in modules
            and isinstance(target := node.target, ast.Name)
        }
        modules |= aliases
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id in modules
            ):
                found.add((modules[node.value.id], node.attr))
    return {(module, name) for module, name in found if not name.startswith("__")}


def is_module(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


def module_of(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise AssertionError(f"megatron-core has no {name} any more: {error}") from None


def test_every_name_that_we_use_is_written_down_here() -> None:
    assert used_names() == pairs(NAMES) | pairs(OF_SOME_RELEASES)


def test_megatron_core_has_every_name_that_we_use() -> None:
    missing = [
        f"{module}.{name}"
        for module, name in sorted(pairs(NAMES) - OURS)
        if not hasattr(module_of(module), name) and not is_module(f"{module}.{name}")
    ]
    assert not missing


def test_its_classes_have_every_member_that_we_use() -> None:
    missing = []
    for place, names in MEMBERS.items():
        module, class_name = place.split(":")
        class_ = getattr(module_of(module), class_name)
        sources = "".join(
            inspect.getsource(base) for base in class_.__mro__ if base.__module__.startswith("megatron")
        )
        missing += [
            f"{place}.{name}"
            for name in names.split()
            if not hasattr(class_, name) and not re.search(rf"\bself\.{name}\b", sources)
        ]
    assert not missing


def test_of_members_that_were_renamed_it_has_one() -> None:
    for place, names in RENAMED_MEMBERS.items():
        module, class_name = place.split(":")
        assert any(hasattr(getattr(module_of(module), class_name), name) for name in names.split()), place


def test_its_configurations_have_every_field_that_we_set() -> None:
    fields = {
        place.split(":")[1]: {
            f.name for f in dataclasses.fields(getattr(module_of(place.split(":")[0]), place.split(":")[1]))
        }
        for place in CONFIGURATIONS
    }
    set_here: dict[str, set[str]] = {name: set() for name in fields}
    for path, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in fields:
                set_here[node.func.id] |= {k.arg for k in node.keywords if k.arg is not None}
            # The one that is put together as a mapping first.
            if (
                path.name == "build.py"
                and isinstance(node, ast.AnnAssign)
                and isinstance(node.value, ast.Dict)
            ):
                set_here["TransformerConfig"] |= {
                    str(k.value) for k in node.value.keys if isinstance(k, ast.Constant)
                }
    assert len(set_here["TransformerConfig"]) > 20
    assert {
        name: sorted(set_here[name] - fields[name]) for name in fields if set_here[name] - fields[name]
    } == {}


def test_one_file_knows_that_releases_differ() -> None:
    asking = set()
    for path, tree in trees():
        for node in ast.walk(tree):
            is_fallback = isinstance(node, ast.Try) and any(
                isinstance(inner, ast.ImportFrom) and (inner.module or "").startswith("megatron")
                for inner in node.body
            )
            asks_signature = isinstance(node, ast.Attribute) and node.attr == "signature"
            asks_version = (
                isinstance(node, ast.Compare)
                and "version" in ast.unparse(node)
                and "megatron" in ast.unparse(node)
            )
            if is_fallback or asks_signature or asks_version:
                asking.add(path.relative_to(PACKAGE).as_posix())
    assert asking == {KNOWS_RELEASES}
