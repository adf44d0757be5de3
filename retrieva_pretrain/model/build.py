"""Recipe -> the model of this process, wrapped for its precision and its data-parallel group."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.transformer.enums import AttnBackend
from megatron.core.transformer.module import Float16Module
from megatron.core.transformer.transformer_config import TransformerConfig

from retrieva_pretrain import platform
from retrieva_pretrain.model.compiled_layers import compile_layers, gather_before_layers
from retrieva_pretrain.model.gradients import finalize_gradients
from retrieva_pretrain.model.initialization import draw_initial_weights
from retrieva_pretrain.model.kernels import kernels_here
from retrieva_pretrain.model.layers import document_attention, layer_spec
from retrieva_pretrain.model.masked_lm import MaskedLanguageModel
from retrieva_pretrain.recipe.schema import Recipe

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def transformer_config(recipe: Recipe, **changes: Any) -> TransformerConfig:
    """Translate a recipe into megatron-core's configuration.

    Pre-norm, SwiGLU (a gated linear unit with SiLU) and biases are what the model is. `calculate_per_token_loss`
    makes Megatron divide the gradient's sum by the scored tokens of the global batch rather than average over
    micro-batches. `changes` override single fields (tests build on the meta device with them).
    """
    dtype = DTYPES[recipe.precision]
    kernels = kernels_here(recipe)
    fields: dict[str, Any] = {
        "num_layers": recipe.model.num_layers,
        "hidden_size": recipe.model.hidden_size,
        "ffn_hidden_size": recipe.model.ffn_hidden_size,
        "num_attention_heads": recipe.model.num_attention_heads,
        "num_query_groups": recipe.model.num_query_groups,
        "layernorm_epsilon": recipe.model.layernorm_epsilon,
        "hidden_dropout": recipe.model.hidden_dropout,
        "attention_dropout": recipe.model.attention_dropout,
        "init_method_std": recipe.model.init_method_std,
        "normalization": "LayerNorm",
        "activation_func": torch.nn.functional.silu,
        "gated_linear_unit": True,
        "add_bias_linear": True,
        "bf16": recipe.precision == "bf16",
        "params_dtype": dtype,
        "pipeline_dtype": dtype,
        # Or the device would be waited for after every exchange between stages; it works round a fault of torch before 1.11.
        "batch_p2p_sync": False,
        "tensor_model_parallel_size": recipe.parallelism.tensor_model_parallel_size,
        "pipeline_model_parallel_size": recipe.parallelism.pipeline_model_parallel_size,
        "deterministic_mode": recipe.deterministic,
        "calculate_per_token_loss": True,
        "sequence_parallel": recipe.parallelism.sequence_parallel,
        # Weights are drawn in initialization.py, on the CPU and whole, so that every layout begins alike. megatron-core
        # initialises all the same: there it marks what is divided, on which the gradient's norm depends.
        "use_cpu_initialization": True,
        "init_method": _leave_alone,
        "output_layer_init_method": _leave_alone,
        "embedding_init_method": _leave_alone,
        # Megatron's Adam keeps fp32 master weights; attention scores are normalised in fp32.
        "attention_softmax_in_fp32": True,
        "bias_activation_fusion": kernels.bias_activation_fusion,
        "bias_dropout_fusion": kernels.bias_dropout_fusion,
        "masked_softmax_fusion": recipe.kernels.masked_softmax_fusion,
        "gradient_accumulation_fusion": kernels.gradient_accumulation_fusion,
        "persist_layer_norm": False,
        # Read by Transformer Engine alone; for local layers the layer spec decides.
        "attention_backend": (
            AttnBackend[recipe.kernels.attention_backend]
            if kernels.attention == "transformer_engine"
            else AttnBackend.auto
        ),
        "fp8": kernels.fp8,
    }
    return TransformerConfig(**{**fields, **changes})


def _leave_alone(weight: torch.Tensor) -> torch.Tensor:
    return weight


def build_model(
    recipe: Recipe, padded_vocab_size: int, *, draw_weights: bool = True, **changes: Any
) -> MaskedLanguageModel:
    """Build this process's part of the model, unwrapped, with weights drawn from the recipe's seed.

    Args:
        recipe: the resolved recipe.
        padded_vocab_size: rows of the embedding, a multiple of the tensor-parallel size.
        draw_weights: False where weights are loaded next: matrices then hold whatever was in memory.
        changes: overrides of `TransformerConfig` fields.
    """
    kernels = kernels_here(recipe)
    platform.current().choose_attention_kernels(recipe.model.attention_dropout)
    model = MaskedLanguageModel(
        document_attention=document_attention(kernels),
        config=transformer_config(recipe, **changes),
        num_tokentypes=0,
        transformer_layer_spec=layer_spec(kernels, inside_documents=recipe.data.reset_attention_mask),
        vocab_size=padded_vocab_size,
        max_sequence_length=recipe.model.max_position_embeddings,
        pre_process=parallel_state.is_pipeline_first_stage(),
        post_process=parallel_state.is_pipeline_last_stage(),
        parallel_output=True,
        share_embeddings_and_output_weights=recipe.model.share_embeddings_and_output_weights,
        add_binary_head=False,
    )
    if draw_weights:
        draw_initial_weights(
            model, seed=recipe.seed, std=recipe.model.init_method_std, num_layers=recipe.model.num_layers
        )
    return model


def wrap_model(recipe: Recipe, model: MaskedLanguageModel) -> DistributedDataParallel:
    """Wrap a model for bf16 where the recipe asks for it, and for data parallelism. Gradients reduce in fp32."""
    module: torch.nn.Module = model.to(platform.current().device())
    if recipe.kernels.compile_layers:
        compile_layers(model)
    if recipe.precision == "bf16":
        module = Float16Module(model.config, module)
    wrapped = DistributedDataParallel(
        model.config,
        DistributedDataParallelConfig(
            grad_reduce_in_fp32=True,
            use_distributed_optimizer=recipe.parallelism.use_distributed_optimizer,
            overlap_grad_reduce=recipe.parallelism.overlap_grad_reduce,
            overlap_param_gather=recipe.parallelism.overlap_param_gather,
            # A non-finite loss is found by the loop, from the global figures and on all ranks alike.
            check_for_nan_in_grad=False,
        ),
        module,
    )
    if recipe.kernels.compile_layers and recipe.parallelism.overlap_param_gather:
        gather_before_layers(model, wrapped)
    wrapped.broadcast_params()
    model.config.finalize_model_grads_func = finalize_gradients
    model.config.no_sync_func = wrapped.no_sync
    return wrapped


def gather_weights(model: DistributedDataParallel) -> None:
    """Bring all weights of this process up to date, before anything but a training step reads them.

    With `overlap_param_gather` each one is gathered only when the next forward pass comes to it; until then a
    checkpoint would hold the weights of the step before.
    """
    if model.ddp_config.overlap_param_gather:
        model.start_param_sync(force_sync=True)
