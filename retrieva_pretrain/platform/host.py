"""A run on the host's CPU: megatron-core's own classes, with its CUDA assumptions answered.

megatron-core asks for `device="cuda"`, compares `tensor.type()` with `torch.cuda.FloatTensor`, keeps random
states of a CUDA generator and waits on CUDA streams. Each question is answered here, once, for the life of
the process; nothing outside this package knows. Seen with megatron-core 0.16.1 and 0.19.2.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Sequence
from typing import Any, Literal

import psutil
import torch
import torch.distributed as dist
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity

from retrieva_pretrain.platform.adam import use_adam_with_fused_state_layout
from retrieva_pretrain.platform.compiler import missing_for_cpp
from retrieva_pretrain.platform.documents import attend_by_mask
from retrieva_pretrain.platform.norms import use_norms_that_know_sequence_parallelism
from retrieva_pretrain.platform.waits import CountsReads
from retrieva_pretrain.platform.weight_gradients import add_product_on_host, offer_fused_weight_gradients

_HOST = torch.device("cpu")
# Numbers of glibc's <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


class HostPlatform(CountsReads):
    """The CPU under gloo."""

    name: Literal["cuda", "cpu"] = "cpu"
    distributed_backend = "gloo"

    def prepare(self, local_rank: int) -> None:
        """Answer megatron-core's CUDA assumptions for the rest of this process's life."""
        _keep_freed_memory()
        _answer_for_cuda()
        use_adam_with_fused_state_layout()
        use_norms_that_know_sequence_parallelism()

    def make_deterministic(self) -> None:
        """Let torch refuse what is not deterministic; the CPU otherwise is."""
        torch.use_deterministic_algorithms(True)
        # It only serves to find reads of memory that nobody wrote, and costs a pass over every tensor made empty.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]

    def device(self) -> torch.device:
        """Return the CPU."""
        return _HOST

    attend_inside_documents = staticmethod(attend_by_mask)

    def choose_attention_kernels(self, attention_dropout: float) -> None:
        """Do nothing: torch chooses among its CPU kernels by what they can do."""

    def attends_grouped_heads(self, dtype: torch.dtype) -> bool:
        """Return True: torch's CPU kernels take them."""
        return True

    def has_fp8(self) -> bool:
        """Return False: no CPU product is in FP8 here."""
        return False

    def free_memory(self) -> int:
        """Return four fifths of what the machine has available: who takes all of it is killed, or gets others killed."""
        return int(0.8 * psutil.virtual_memory().available)

    def release_memory(self) -> None:
        """Do nothing: malloc uses again what it keeps."""

    def missing_for_compilation(self) -> str | None:
        """Return what inductor's C++ lacks."""
        return missing_for_cpp()

    def offer_gradient_accumulation_fusion(self) -> bool:
        """Offer a product in fp32."""
        offer_fused_weight_gradients(add_product_on_host)
        return True

    def abandon_process_group(self) -> None:
        """Close gloo's connections, which ends the collectives of others."""
        dist.destroy_process_group()

    def process_group_device(self) -> torch.device | None:
        """Return None: gloo binds no device."""
        return None

    def pin(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the tensor: its memory is the device's own."""
        return tensor

    def host_copy_bytes(self, size: int) -> int:
        """Return what it is."""
        return size

    def send(self, values: Sequence[float]) -> torch.Tensor:
        """Return the numbers as a tensor."""
        return torch.tensor(values, dtype=torch.float64)

    def synchronize(self) -> None:
        """Return at once: the CPU has no queue."""

    def device_name(self) -> str | None:
        """Return None: the peak of a CPU is not in any table."""
        return None

    def memory(self) -> int:
        """Return the process's resident memory in bytes, as it is now."""
        return int(psutil.Process().memory_info().rss)

    def reserved_memory(self) -> int | None:
        """Return None: the CPU's allocator does not count."""
        return None

    def forget_peak_memory(self) -> None:
        """Do nothing: `memory` tells no peak."""

    def profiler_activities(self) -> list[ProfilerActivity]:
        """Return the CPU."""
        return [ProfilerActivity.CPU]


def _keep_freed_memory() -> None:
    """Let glibc's malloc keep large blocks that were freed, as CUDA's caching allocator does.

    By default it gives them back to the kernel, and every step faults fresh pages in for its logits and gradients
    again. Other C libraries are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def _names_cuda(device: Any) -> bool:
    if isinstance(device, torch.device):
        return device.type == "cuda"
    return isinstance(device, str) and device.startswith("cuda")


class _CudaMeansHost(TorchFunctionMode):
    """Reads `cuda` as the CPU in every torch call, and spells tensor types the way CUDA does."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _names_cuda(kwargs.get("device")):
            kwargs = {**kwargs, "device": _HOST}
        if func is torch.Tensor.to:
            args = tuple(_HOST if _names_cuda(a) else a for a in args)
        elif func is torch.Tensor.cuda:
            return args[0]
        elif func is torch.Tensor.type and len(args) == 1 and not kwargs:
            # The optimizer, clip_grads and distrib_optimizer compare with these names.
            return str(func(*args)).replace("torch.", "torch.cuda.", 1)
        return func(*args, **kwargs)


class _IdleStream:
    """Stands where a CUDA stream is asked for: on the CPU there is nothing to wait for."""

    def wait_stream(self, stream: object) -> None:
        pass

    def wait_event(self, event: object) -> None:
        pass

    def synchronize(self) -> None:
        pass


_active: list[_CudaMeansHost] = []


def _answer_for_cuda() -> None:
    """Install the answers. Calling it again does nothing."""
    if _active:
        return
    cuda: Any = torch.cuda
    stream = _IdleStream()
    cuda.current_device = lambda: _HOST
    cuda.synchronize = lambda device=None: None
    cuda.current_stream = lambda device=None: stream
    cuda.default_stream = lambda device=None: stream
    cuda.get_rng_state = lambda device=None: torch.get_rng_state()
    cuda.manual_seed = lambda seed: torch.default_generator.manual_seed(seed)

    from megatron.core.tensor_parallel import random as megatron_random

    tracker_module: Any = megatron_random
    tracker_module._get_cuda_rng_state = lambda device=-1, clone=False, graph_safe=False: (
        torch.get_rng_state()
    )
    tracker_module._set_cuda_rng_state = lambda new_state, device=-1, graph_safe=False: torch.set_rng_state(
        new_state
    )
    # The tracker warns when the CPU generator moves inside a fork; here it is the tracked generator itself.
    logging.getLogger(megatron_random.__name__).addFilter(
        lambda record: "CPU RNG state changed" not in record.getMessage()
    )

    mode = _CudaMeansHost()
    mode.__enter__()  # type: ignore[no-untyped-call]
    _active.append(mode)
