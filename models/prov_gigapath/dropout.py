"""Dropout that costs little: cheap masks on CPUs, and no work for residual branches that are dropped."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

# Probabilities are multiples of 1 / _STEPS here; 0.25 is one.
_STEPS = 2**16


class Dropout(nn.Dropout):
    """:class:`torch.nn.Dropout`, whose CPU kernel draws one float per element and keeps it."""

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as ``x``."""
        if not self.training or self.p == 0 or x.device.type != "cpu":
            return super().forward(x)
        return _Masked.apply(x, keep_mask(x.shape, self.p), 1 / (1 - self.p) if self.p < 1 else 0.0)


def keep_mask(shape: torch.Size, p: float) -> Tensor:
    """Booleans on the CPU, False with probability ``p`` (rounded to 1 / 65,536)."""
    count = shape.numel()
    words = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
    threshold = round(p * _STEPS) - _STEPS // 2  # of a uniform int16
    return (words.view(torch.int16)[:count] >= threshold).view(shape)


class _Masked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, mask: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(mask)
        ctx.scale = scale
        return (x * mask).mul_(scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
        (mask,) = ctx.saved_tensors
        return (grad * mask).mul_(ctx.scale), None, None


class DropPath(nn.Module):
    """Adds a residual branch to some copies of a batch and leaves it out of the others (Huang et al. 2016).

    Equals ``x + timm.layers.DropPath(drop_prob)(branch(x))``, which computes all copies and multiplies some by zero.
    """

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor, branch: Callable[[Tensor], Tensor]) -> Tensor:
        """``x [T, ...]`` plus ``branch``, a function of any number of copies, scaled by ``1 / (1 - drop_prob)``."""
        if not self.training or self.drop_prob == 0:
            return x + branch(x)
        keep = 1 - self.drop_prob
        # Drawn on the CPU on every device: Python has to know how much there is to compute.
        kept = (torch.rand(len(x), device="cpu") < keep).nonzero().squeeze(1)
        if len(kept) == 0:
            return x
        if len(kept) == len(x):
            return torch.add(x, branch(x), alpha=1 / keep)
        kept = kept.to(x.device, non_blocking=True)
        return x.index_add(0, kept, branch(x[kept]).to(x.dtype), alpha=1 / keep)
