"""The encoder's layers through torch.compile, each in one graph that all layers of a shape share."""

from __future__ import annotations

from typing import cast

import torch
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel
from megatron.core.tensor_parallel import layers
from megatron.core.utils import get_tensor_model_parallel_group_if_none

from retrieva_pretrain.model.masked_lm import MaskedLanguageModel

# A length compiles anew, and so do training, evaluation and recomputation of each: more than torch's own limits allow.
_MOST_GRAPHS = 256


def compile_layers(model: MaskedLanguageModel) -> None:
    """Let torch.compile compile the forward pass of every layer of a model, in place; names of parameters stay."""
    torch._dynamo.config.recompile_limit = _MOST_GRAPHS
    torch._dynamo.config.accumulated_recompile_limit = _MOST_GRAPHS * len(model.encoder.layers)
    if parallel_state.get_tensor_model_parallel_world_size() == 1:
        layers.get_tensor_model_parallel_group_if_none = _tensor_parallel_group
    for layer in model.encoder.layers:
        # Not layer.compile(): hooks of the layer stay outside.
        layer.forward = torch.compile(layer.forward, dynamic=False)


def _tensor_parallel_group(
    tp_group: torch.distributed.ProcessGroup | None, is_expert: bool = False, check_initialized: bool = True
) -> torch.distributed.ProcessGroup | None:
    """Stand for megatron-core's own, which warns of a missing group at each call, on rank 0 only.

    Row-parallel products always miss it (0.16.1): the warning would cut their layers' graphs, on that rank. Not so under
    tensor parallelism: its collectives cut the graph anyway, and torch 2.13 cannot hand a group over such a cut.
    """
    if tp_group is None and not is_expert and parallel_state.is_initialized():
        tp_group = parallel_state.get_tensor_model_parallel_group(check_initialized)
    found = get_tensor_model_parallel_group_if_none(tp_group, is_expert, check_initialized)
    return cast("torch.distributed.ProcessGroup | None", found)


def gather_before_layers(model: MaskedLanguageModel, wrapped: DistributedDataParallel) -> None:
    """Wait for the weights of a layer before it, and not before each of its modules.

    With `overlap_param_gather` megatron-core hooks a wait to every module. Inside of a compiled layer such hooks are part
    of the graph, with the parameters that they wait for: no layer could share the graph of another.
    """
    wait = wrapped._make_forward_pre_hook()

    def wait_for_all(layer: torch.nn.Module, *_: object) -> None:
        for module in layer.modules():
            wait(module)

    for layer in model.encoder.layers:
        for module in layer.modules():
            wrapped.remove_forward_pre_hook_handles[module].remove()
        wrapped.remove_forward_pre_hook_handles[layer] = layer.register_forward_pre_hook(wait_for_all)
