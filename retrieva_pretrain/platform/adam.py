"""Adam where neither Transformer Engine nor Apex is installed.

megatron-core's distributed optimizer expects the state layout of their fused Adams, `step` on the parameter
group and not on each parameter; with torch's own AdamW a checkpoint saves but fails to load
(`KeyError: 'step'`, megatron-core 0.16.1 and 0.19.2). This class keeps that layout; the update is torch's fused one,
a few kernels for each group of parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class GroupStepAdam(torch.optim.Optimizer):
    """AdamW (Loshchilov and Hutter, 2019) with the step count on the parameter group.

    State per parameter: `exp_avg` and `exp_avg_sq`, of the parameter's shape and type.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        adam_w_mode: bool = True,
        **_fused_options: Any,
    ) -> None:
        """Take the arguments of Apex's FusedAdam; `adam_w_mode=False` (L2 in the gradient) is refused."""
        if not adam_w_mode:
            raise ValueError("only decoupled weight decay (adam_w_mode=True) is supported")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient; those of a group are of one type, on one device."""
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            group["step"] = group.get("step", 0) + 1
            params = [p for p in group["params"] if p.grad is not None and p.numel()]
            if not params:
                continue
            for p in params:
                state = self.state[p]
                if not state:
                    state["exp_avg"] = torch.zeros_like(p)
                    state["exp_avg_sq"] = torch.zeros_like(p)
            beta1, beta2 = group["betas"]
            # All parameters share one step count. The kernel only reads it; `torch.optim.adamw.adamw` round the kernel
            # adds one to each entry of the list, and so would count the parameters.
            step = torch.full((), float(group["step"]), device=params[0].device)
            torch._fused_adamw_(
                params,
                [p.grad for p in params if p.grad is not None],
                [self.state[p]["exp_avg"] for p in params],
                [self.state[p]["exp_avg_sq"] for p in params],
                [],
                [step] * len(params),
                amsgrad=False,
                beta1=beta1,
                beta2=beta2,
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
            )
        return loss


def use_adam_with_fused_state_layout() -> None:
    """Give megatron-core this Adam where it found neither Transformer Engine nor Apex."""
    import megatron.core.optimizer as megatron_optimizer
    import megatron.core.optimizer.distrib_optimizer as distrib_optimizer

    if distrib_optimizer.HAVE_APEX_OR_TE:
        return
    megatron_optimizer.Adam = GroupStepAdam
    megatron_optimizer.USING_PYTORCH_OPTIMIZER = False
    distrib_optimizer.Adam = GroupStepAdam
    distrib_optimizer.HAVE_APEX_OR_TE = True
    distrib_optimizer.USING_APEX_OPTIMIZER = True
