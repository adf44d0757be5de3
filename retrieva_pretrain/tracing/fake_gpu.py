"""One GPU among others that are not there: the platform, the process groups and the random streams of a trace.

Fake tensors on device "cuda" fail in backward (torch 2.13), so they are on the CPU, with what CUDA's kernels keep
(`cuda_kernels.py`). Everything here is for the life of the process.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.distributed import param_and_grad_buffer
from megatron.core.tensor_parallel import random as megatron_random
from torch import Tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from retrieva_pretrain import platform
from retrieva_pretrain.platform.host import HostPlatform
from retrieva_pretrain.platform.weight_gradients import offer_fused_weight_gradients
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.tracing.cuda_kernels import (
    add_product,
    attention_inside_documents,
    use_cuda_kernels,
)


class FakeGpu(HostPlatform):
    """A GPU to whoever asks for kernels; its tensors are fake ones of the CPU."""

    name: Literal["cuda", "cpu"] = "cuda"
    distributed_backend = "fake"

    def missing_for_compilation(self) -> str | None:
        """Return None: nothing is compiled here, and the GPU's machine has what it takes."""
        return None

    def offer_gradient_accumulation_fusion(self) -> bool:
        """Offer a product that allocates nothing, as on CUDA."""
        offer_fused_weight_gradients(add_product)
        return True

    def attend_inside_documents(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cu_seqlens: Tensor,
        seq_length: int,
        dropout: float,
        softmax_scale: float,
    ) -> Tensor:
        """Allocate what the flash kernel does, in fp32 too, where a GPU takes a mask."""
        return attention_inside_documents(query, key, value, documents=cu_seqlens.numel() - 1)

    def read(self, tensor: Tensor) -> list[float]:
        """Return ones: nothing was computed."""
        return [1.0] * tensor.numel()


def become_a_gpu(recipe: Recipe, gpus: int) -> None:
    """Make this process rank 0 of `gpus`, divided into the groups of a recipe's layout."""
    gpu = FakeGpu()
    gpu.prepare(0)
    where: Any = platform
    where.current = lambda: gpu
    use_cuda_kernels()
    _use_fake_processes(recipe, gpus)
    _use_no_random_streams(recipe.seed)
    modules: Any = torch.nn.Module
    modules._apply = _apply


def _use_fake_processes(recipe: Recipe, gpus: int) -> None:
    """Divide processes whose collectives return at once, with whatever is in their outputs."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=gpus)
    here: Any = dist

    def all_gather_object(object_list: list[Any], obj: Any, group: Any = None) -> None:
        object_list[:] = [obj] * len(object_list)

    here.all_gather_object = all_gather_object
    states: Any = parallel_state
    states.initialize_model_parallel(
        tensor_model_parallel_size=recipe.parallelism.tensor_model_parallel_size,
        create_gloo_process_groups=False,
    )
    for gloo in ("get_data_parallel_group_gloo", "get_expert_data_parallel_group_gloo"):
        setattr(states, gloo, lambda *_arguments, **_options: states.get_data_parallel_group())
    # Coalesced collectives have no fake form (torch 2.13); one by one they allocate the same: nothing.
    buffers: Any = param_and_grad_buffer
    buffers._coalescing_manager = lambda *_arguments, **_options: nullcontext(_Done())


class _Done:
    """Stands for a collective that is under way."""

    def wait(self) -> None:
        pass


def _use_no_random_streams(seed: int) -> None:
    """Switch between random streams by doing nothing: nothing is drawn, and their states are no fake tensors."""
    megatron_random.model_parallel_cuda_manual_seed(seed)
    upstream: Any = megatron_random

    def no_fork(*_arguments: Any, **_options: Any) -> AbstractContextManager[None]:
        return nullcontext()

    upstream.CudaRNGStatesTracker.fork = no_fork
    upstream._fork_rng = no_fork
    upstream._get_all_rng_states = lambda: ()
    upstream._set_all_rng_states = lambda *_states: None


def _apply(self: torch.nn.Module, fn: Any, recurse: bool = True) -> torch.nn.Module:
    """`Module._apply`, which casts and moves: makes new parameters with the attributes of the old ones.

    torch's own puts the new data into the old parameter, which a fake tensor does not take.
    """
    for module in self.children():
        _apply(module, fn)
    for name, old in self._parameters.items():
        if old is None:
            continue
        with torch.no_grad():
            data = fn(old)
        if data is not old:
            new = torch.nn.Parameter(data, old.requires_grad)
            new.__dict__.update(old.__dict__)
            self._parameters[name] = new
    for name, buffer in self._buffers.items():
        if buffer is not None:
            self._buffers[name] = fn(buffer)
    return self
