"""Dilated attention of LongNet (Ding et al. 2023, arXiv:2307.02486), as Prov-GigaPath uses it.

A branch ``(segment, ratio)`` cuts the sequence into segments and lets every head see each
``ratio``-th position of its segment; heads are split into ``ratio`` groups that start at different
offsets. The branches of a position are then averaged with weights from their log-sum-exps.

Only the positions a branch really sees are copied (``1 / ratio`` of the sequence), one branch at a time.
What a group of heads sees is a diagonal of (offset, group) and therefore one strided view for all groups
together. The published encoder fills up the last segment with zeros, which are ordinary keys with score 0 and
value 0. They are never computed here: ``n`` of them add ``n`` to the denominator of the softmax and nothing else.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from models.prov_gigapath import dilated_kernels
from models.prov_gigapath.attention import attend, attend_backward, kernel_name
from models.prov_gigapath.dilated_parts import ABSENT, Part, plan

logger = logging.getLogger(__name__)


def _attend(part: Part, qkv: Tensor) -> tuple[Tensor, Tensor]:
    """Attention over ``[3, B, L, H, D]``; output ``[B * n, H, M, D]``, log-sum-exp ``[B * n, H, M]``."""
    out, lse = attend(*part.gather(qkv))
    if part.padding:
        padded = torch.logaddexp(lse, lse.new_full((), math.log(part.padding)))
        out = out * (lse - padded).exp().unsqueeze(-1).to(out.dtype)
        lse = padded
    return out, lse


class StridedDilatedAttention(torch.autograd.Function):
    """Keeps ``q, k, v``, what the parts return and the weights; gathers again in the backward pass.

    With ``whole_gradient`` the weights between the branches are no constants for the gradient. A weight changes with
    the log-sum-exps, which adds ``weight * grad (out of the part - total)`` to the gradient of each. The derivative
    of a part knows its own ``out`` only by ``weight * grad out``, so that ``total`` in its place is all it takes.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, qkv: Tensor, parts: tuple[Part, ...], whole_gradient: bool = False
    ) -> Tensor:
        dense = qkv.permute(2, 0, 1, 3, 4)  # [3, B, L, H, D]
        outs, lses = zip(*(_attend(part, dense) for part in parts), strict=True)
        total = torch.zeros(dense.shape[1:], dtype=qkv.dtype, device=qkv.device)  # [B, L, H, D]
        shape = (parts[-1].branch + 1, *total.shape[:3], 1)
        weights = torch.full(shape, ABSENT, dtype=lses[0].dtype, device=qkv.device)
        for part, lse in zip(parts, lses, strict=True):
            for target, source in part.pairs(weights[part.branch], part.spread(lse.unsqueeze(-1))):
                target.copy_(source)
        # The published encoder marks unseen positions by a zero, so a log-sum-exp of exactly zero counts as
        # unseen too.
        weights = weights.masked_fill_(weights == 0, ABSENT).softmax(dim=0).to(qkv.dtype)
        for part, out in zip(parts, outs, strict=True):
            sparse, weight = part.spread(out), weights[part.branch]
            for (target, source), factor in zip(part.pairs(total, sparse), part.seen(weight), strict=True):
                target.addcmul_(source, factor)
        if whole_gradient:
            outs = tuple(part.gather(total) for part in parts)
        ctx.parts = parts
        ctx.save_for_backward(qkv, weights, *outs, *lses)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
        qkv, weights, *results = ctx.saved_tensors
        outs, lses = results[: len(ctx.parts)], results[len(ctx.parts) :]
        dense = qkv.permute(2, 0, 1, 3, 4)
        total = torch.zeros_like(qkv)
        totals = total.permute(2, 0, 1, 3, 4)
        for part, out, lse in zip(ctx.parts, outs, lses, strict=True):
            weighted = part.empty(grad)
            factors = part.seen(weights[part.branch])
            for (source, target), factor in zip(part.pairs(grad, weighted), factors, strict=True):
                torch.mul(source, factor, out=target)
            grads = attend_backward(weighted.flatten(0, 1), *part.gather(dense), out, lse)
            for one, sparse in zip(totals, grads, strict=True):
                for target, source in part.pairs(one, part.spread(sparse)):
                    target.add_(source)
        return total, None, None


def dilated_attention(
    qkv: Tensor, segments: Sequence[int], ratios: Sequence[int], whole_gradient: bool = False
) -> Tensor:
    """Dilated attention over the branches ``(segments[i], ratios[i])``.

    Args:
        qkv: queries, keys and values ``[B, L, 3, H, D]``.
        segments: segment lengths in positions.
        ratios: dilation of each branch; the first must be 1 so that every position is seen.
        whole_gradient: for explanations; else the weights between the branches are constants for the gradient, as
            in the published training.

    Returns:
        ``[B, L, H, D]``, differentiable once.
    """
    _, length, _, heads, _ = qkv.shape
    parts = plan(tuple(segments), tuple(ratios), length, heads)
    if whole_gradient:
        return StridedDilatedAttention.apply(qkv, parts, True)
    if _fused(qkv.device, qkv.dtype, qkv.shape[-1]):
        return dilated_kernels.FusedDilatedAttention.apply(qkv, parts)
    return StridedDilatedAttention.apply(qkv, parts)


def kernels(device: torch.device, dtype: torch.dtype, width: int) -> dict[str, str]:
    """The kernels that heads of ``width`` get on a device: of the attention and of the copies around it."""
    copies = "fused" if _fused(device, dtype, width) else "strided"
    return {"attention": kernel_name(device, dtype, width), "copies": copies}


def _fused(device: torch.device, dtype: torch.dtype, width: int) -> bool:
    return dilated_kernels.takes(device, dtype) and _fused_agrees(device, dtype, width)


@cache
def _fused_agrees(device: torch.device, dtype: torch.dtype, width: int) -> bool:
    """Whether the fused copies give the numbers of the strided ones on this device; tried once, on little."""
    generator = torch.Generator().manual_seed(0)
    parts = plan((16, 40, 100), (1, 2, 4), 61, 4)
    values = torch.randn(2, 61, 3, 4, width, generator=generator).to(device, dtype)
    grad = torch.randn(2, 61, 4, width, generator=generator).to(device, dtype)
    results = []
    try:
        with torch.inference_mode(False), torch.enable_grad():
            for function in (dilated_kernels.FusedDilatedAttention, StridedDilatedAttention):
                qkv = values.clone().requires_grad_()
                out = function.apply(qkv, parts)
                results.append((out, *torch.autograd.grad(out, qkv, grad)))
    except Exception as error:  # whatever Triton, its compiler or the driver raise
        logger.warning("the fused copies of dilated attention cannot be used on %s: %s", device, error)
        return False
    worst = max(((a - b).float().norm() / b.float().norm()).item() for a, b in zip(*results, strict=True))
    good = worst < (1e-4 if dtype == torch.float32 else 2e-2)
    logger.log(
        logging.INFO if good else logging.WARNING,
        "dilated attention on %s: %s copies (Triton against PyTorch: %.1g)",
        device,
        "fused" if good else "strided",
        worst,
    )
    return good
