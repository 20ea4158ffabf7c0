"""BertAdam, the optimiser with which the authors' release (as CLIP4Clip and X-CLIP) trains, and its schedule."""

import math
from collections.abc import Iterable

import torch
from torch.nn.utils import clip_grad_norm_


class BertAdam(torch.optim.Optimizer):
    """Adam without bias correction.

        m = beta1 m + (1 - beta1) g,    v = beta2 v + (1 - beta2) g^2
        p = p - lr (m / (sqrt(v) + eps) + weight_decay p)

    It differs from `torch.optim.AdamW` in that m and v, which start at zero, are not divided by 1 - beta^t, so that
    the first steps are smaller; and in that the gradient of each tensor is clipped to a norm of its own. A parameter
    without gradient is left as it is: neither updated nor decayed. Where the loop has clipped all gradients together
    to `max_grad_norm`, no tensor's is larger and its own clipping changes nothing.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-6,
        weight_decay: float = 0.2,
        max_grad_norm: float = 1.0,
    ):
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "max_grad_norm": max_grad_norm}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure=None):
        """Updates every parameter that has a gradient; returns what `closure`, if given, returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                clip_grad_norm_(parameter, group["max_grad_norm"])
                gradient, state = parameter.grad, self.state[parameter]
                if not state:
                    state["exp_avg"] = torch.zeros_like(parameter)
                    state["exp_avg_sq"] = torch.zeros_like(parameter)
                average = state["exp_avg"].mul_(beta1).add_(gradient, alpha=1 - beta1)
                square = state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
                update = average / (square.sqrt() + group["eps"])
                parameter.sub_(group["lr"] * (update + group["weight_decay"] * parameter))
        return loss


def warmup_cosine(progress: float, warmup_ratio: float) -> float:
    """Factor of the learning rate after a share `progress` of the steps.

    It rises linearly from 0 until `warmup_ratio` and is (1 + cos(pi progress)) / 2 afterwards. The cosine starts at 0,
    not where the warm-up ends: at a ratio of 0.1 the factor drops from 1 to 0.976 there. As the first step is taken
    at progress 0, it changes nothing but m and v.
    """
    if progress < warmup_ratio:
        return progress / warmup_ratio
    return (1 + math.cos(math.pi * progress)) / 2
