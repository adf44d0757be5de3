"""One layer by Transformer Engine against the same layer by megatron-core's own modules."""

from __future__ import annotations

import os
from copy import deepcopy
from typing import Any

import torch

from retrieva_pretrain import platform
from retrieva_pretrain.optional_packages import optional_packages

_TOLERANCE = 0.05
"""Of the largest difference, relative to the largest value: bf16 with another order of sums."""
# Where Transformer Engine keeps what the local layer keeps elsewhere: the norms are fused into what follows them.
_RENAMED = {
    "input_layernorm.": "self_attention.linear_qkv.layer_norm_",
    "pre_mlp_layernorm.": "mlp.linear_fc1.layer_norm_",
}


def layer_parity() -> dict[str, Any]:
    """Return the largest relative difference of the two layers' outputs on random input, or why there is none."""
    if platform.current().name != "cuda":
        return {"skipped": "no GPU"}
    if not optional_packages()["Transformer Engine"]:
        return {"skipped": "Transformer Engine is not installed"}
    from megatron.core import parallel_state
    from megatron.core.models.bert.bert_layer_specs import (
        bert_layer_local_spec,
        get_bert_layer_with_transformer_engine_spec,
    )
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed
    from megatron.core.transformer.enums import AttnMaskType

    parallel_state.initialize_model_parallel()
    model_parallel_cuda_manual_seed(1)
    try:
        device = platform.current().device()
        local = _layer(bert_layer_local_spec, device)
        spec = deepcopy(get_bert_layer_with_transformer_engine_spec())
        # As in training, where nothing is padded.
        spec.submodules.self_attention.params["attn_mask_type"] = AttnMaskType.no_mask
        engine = _layer(spec, device)
        weights = {_renamed(name): value for name, value in local.state_dict().items() if value is not None}
        missing = engine.load_state_dict(weights, strict=False).missing_keys
        if absent := [name for name in missing if not name.endswith("_extra_state")]:
            return {"error": f"weights of other names: {', '.join(absent[:4])}"}
        hidden = torch.randn(128, 4, 256, device=device, dtype=torch.bfloat16)
        with torch.no_grad():
            one, other = (layer(hidden, attention_mask=None)[0].float() for layer in (local, engine))
        difference = float((one - other).abs().max() / one.abs().max())
        return {"difference": difference, "good": difference < _TOLERANCE}
    finally:
        parallel_state.destroy_model_parallel()


def _layer(spec: Any, device: torch.device) -> Any:
    from megatron.core.transformer.spec_utils import build_module
    from megatron.core.transformer.transformer_config import TransformerConfig

    config = TransformerConfig(
        num_layers=1,
        hidden_size=256,
        ffn_hidden_size=512,
        num_attention_heads=4,
        num_query_groups=1,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        bf16=True,
        params_dtype=torch.bfloat16,
        use_cpu_initialization=True,
    )
    os.environ.setdefault("NVTE_ALLOW_NONDETERMINISTIC_ALGO", "1")
    return build_module(spec, config=config, layer_number=1).to(device).eval()


def _renamed(name: str) -> str:
    for before, after in _RENAMED.items():
        if name.startswith(before):
            return after + name[len(before) :]
    return name
