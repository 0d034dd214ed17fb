"""Dilated attention of LongNet (Ding et al. 2023, arXiv:2307.02486), as Prov-GigaPath uses it.

A branch ``(segment, ratio)`` cuts the sequence into segments and lets every head see each
``ratio``-th position of its segment; heads are split into ``ratio`` groups that start at different
offsets. The branches of a position are then averaged with weights from their log-sum-exps.

Only the positions a branch really sees are copied (``1 / ratio`` of the sequence), one branch at a time.
The published encoder fills up the last segment with zeros, which are ordinary keys with score 0 and value
0. They are never computed here: ``n`` of them add ``n`` to the denominator of the softmax and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from models.prov_gigapath.attention import attend, attend_backward

# Stands for the log-sum-exp of a branch that has not seen a position.
_ABSENT = -1e8


@dataclass(frozen=True)
class Part:
    """Segments of one branch that have the same length: all full ones, or the shorter last one.

    Attributes:
        branch: number of the branch.
        start: first position.
        count: number of segments, ``n``.
        length: positions of a segment.
        ratio: every ``ratio``-th position is seen.
        heads: number of heads.
        padding: zero keys that the published encoder appends to a segment, per head.
    """

    branch: int
    start: int
    count: int
    length: int
    ratio: int
    heads: int
    padding: int

    @property
    def positions(self) -> int:
        """Positions of a segment that one head sees, ``M``; late heads may see one less."""
        return -(-self.length // self.ratio)

    def pairs(self, dense: Tensor, sparse: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Views of ``dense [B, L, H, *]`` beside the same elements of ``sparse [B * n, M, H, *]``.

        Together the pairs cover every element of the part that is no padding, each once.
        """
        whole = dense[:, self.start : self.start + self.count * self.length]
        whole = whole.unflatten(1, (self.count, self.length))  # [B, n, length, H, *]
        sparse = sparse.unflatten(0, (dense.shape[0], self.count))
        group = -(-self.heads // self.ratio)
        for offset in range(min(self.ratio, self.length)):
            heads = slice(offset * group, (offset + 1) * group)
            if heads.start >= self.heads:
                break
            seen = whole[:, :, offset :: self.ratio, heads]
            yield seen, sparse[:, :, : seen.shape[2], heads]

    def gather(self, dense: Tensor) -> Tensor:
        """What the part sees of ``dense [B, L, H, D]``: ``[B * n, M, H, D]``, zeros where a head sees less."""
        new = dense.new_zeros if self.length % self.ratio else dense.new_empty
        shape = (dense.shape[0] * self.count, self.heads, self.positions, dense.shape[3])
        sparse = new(shape).transpose(1, 2)  # in memory, heads come first: the kernels read rows in order
        for source, target in self.pairs(dense, sparse):
            target.copy_(source)
        return sparse

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Attention over dense ``q, k, v``; output ``[B * n, M, H, D]``, log-sum-exp ``[B * n, M, H]``."""
        out, lse = attend(self.gather(q), self.gather(k), self.gather(v))
        if self.padding:
            padded = torch.logaddexp(lse, lse.new_tensor(math.log(self.padding)))
            out = out * (lse - padded).exp().unsqueeze(-1).to(out.dtype)
            lse = padded
        return out, lse


def plan(segments: Sequence[int], ratios: Sequence[int], length: int, heads: int) -> list[Part]:
    """The parts of a sequence; segments longer than the sequence shrink to it."""
    parts = []
    for branch, (segment, ratio) in enumerate(zip(segments, ratios, strict=True)):
        segment = min(segment, length)
        full, rest = divmod(length, segment)
        parts.append(Part(branch, 0, full, segment, ratio, heads, 0))
        if rest:
            padding = parts[-1].positions - -(-rest // ratio)
            parts.append(Part(branch, full * segment, 1, rest, ratio, heads, padding))
    return parts


class _DilatedAttention(torch.autograd.Function):
    """Keeps ``q, k, v``, what the parts return and the weights; gathers again in the backward pass."""

    @staticmethod
    def forward(ctx: FunctionCtx, parts: list[Part], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        outs, lses = zip(*(part.attend(q, k, v) for part in parts), strict=True)
        shape = (parts[-1].branch + 1, *q.shape[:3], 1)
        weights = torch.full(shape, _ABSENT, dtype=lses[0].dtype, device=q.device)
        for part, lse in zip(parts, lses, strict=True):
            # The published encoder marks unseen positions by a zero, so a log-sum-exp of exactly zero
            # counts as unseen too.
            lse = lse.masked_fill(lse == 0, _ABSENT).unsqueeze(-1)
            for target, source in part.pairs(weights[part.branch], lse):
                target.copy_(source)
        weights = weights.softmax(dim=0).to(q.dtype)
        total = torch.zeros_like(q)
        for part, out in zip(parts, outs, strict=True):
            weight = weights[part.branch]
            for (target, source), (factor, _) in zip(
                part.pairs(total, out), part.pairs(weight, out), strict=True
            ):
                target.addcmul_(source, factor)
        ctx.parts = parts
        ctx.save_for_backward(q, k, v, weights, *outs, *lses)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights, *results = ctx.saved_tensors
        outs, lses = results[: len(ctx.parts)], results[len(ctx.parts) :]
        totals = [torch.zeros_like(tensor) for tensor in (q, k, v)]
        for part, out, lse in zip(ctx.parts, outs, lses, strict=True):
            sparse_grad = part.gather(grad).mul_(part.gather(weights[part.branch]))
            inputs = (part.gather(tensor) for tensor in (q, k, v))
            for total, sparse in zip(totals, attend_backward(sparse_grad, *inputs, out, lse), strict=True):
                for target, source in part.pairs(total, sparse):
                    target.add_(source)
        return None, *totals


def dilated_attention(
    q: Tensor, k: Tensor, v: Tensor, segments: Sequence[int], ratios: Sequence[int]
) -> Tensor:
    """Dilated attention over the branches ``(segments[i], ratios[i])``.

    Args:
        q: queries ``[B, L, H, D]``.
        k: keys ``[B, L, H, D]``.
        v: values ``[B, L, H, D]``.
        segments: segment lengths in positions.
        ratios: dilation of each branch; the first must be 1 so that every position is seen.

    Returns:
        ``[B, L, H, D]``, differentiable once. The weights between the branches are constants for the gradient.
    """
    return _DilatedAttention.apply(plan(segments, ratios, q.shape[1], q.shape[2]), q, k, v)
