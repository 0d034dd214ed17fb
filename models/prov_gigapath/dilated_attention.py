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

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from models.prov_gigapath.attention import attend, attend_backward

# Stands for the log-sum-exp of a branch that has not seen a position.
ABSENT = -1e8


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

    def _diagonals(self) -> Iterator[tuple[int, int, int, int]]:
        """First offset, number of offsets, heads of each and positions of each, of what is seen.

        The heads of an offset are one group. The last group may be smaller; late offsets may see one position
        less. So there are at most two strided views where ``ratio`` divides the heads.
        """
        group = -(-self.heads // self.ratio)
        offsets = min(self.ratio, self.length, -(-self.heads // group))
        full = min(offsets, self.heads // group)
        longer = self.length - (self.positions - 1) * self.ratio  # offsets that see all positions
        for first, last, heads in ((0, full, group), (full, offsets, self.heads - full * group)):
            for start, stop, positions in (
                (first, min(last, longer), self.positions),
                (max(first, longer), last, self.positions - 1),
            ):
                if start < stop and positions:
                    yield start, stop - start, heads, positions

    def pairs(self, dense: Tensor, sparse: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Views of ``dense [..., L, H, D]`` beside the same elements of ``sparse [..., n, H, M, D]``.

        Together the pairs cover every element of the part that is no padding, each once.
        """
        group = -(-self.heads // self.ratio)
        *outer, along, across, inner = dense.stride()
        for first, offsets, heads, positions in self._diagonals():
            head = first * group
            seen = dense.as_strided(
                (*dense.shape[:-3], self.count, positions, offsets, heads, dense.shape[-1]),
                (*outer, self.length * along, self.ratio * along, along + group * across, across, inner),
                dense.storage_offset() + (self.start + first) * along + head * across,
            )
            taken = sparse[..., head : head + offsets * heads, :positions, :]
            yield seen, taken.unflatten(-3, (offsets, heads)).movedim(-2, -4)

    def empty(self, dense: Tensor) -> Tensor:
        """Room for what the part sees of ``dense``, zeros where a head sees less than ``M``: ``[..., n, H, M, D]``.

        In memory, heads come first: the kernels read rows in order.
        """
        new = dense.new_zeros if self.length % self.ratio else dense.new_empty
        return new(*dense.shape[:-3], self.count, self.heads, self.positions, dense.shape[-1])

    def gather(self, dense: Tensor) -> Tensor:
        """What the part sees of ``dense [..., B, L, H, D]``: ``[..., B * n, H, M, D]``."""
        sparse = self.empty(dense)
        for source, target in self.pairs(dense, sparse):
            target.copy_(source)
        return sparse.flatten(-5, -4)

    def spread(self, sparse: Tensor) -> Tensor:
        """``[B * n, H, M, ...]``, what attention gives, as :meth:`pairs` takes it: ``[B, n, H, M, ...]``."""
        return sparse.unflatten(0, (-1, self.count))

    def attend(self, qkv: Tensor) -> tuple[Tensor, Tensor]:
        """Attention over ``[3, B, L, H, D]``; output ``[B * n, H, M, D]``, log-sum-exp ``[B * n, H, M]``."""
        out, lse = attend(*self.gather(qkv))
        if self.padding:
            padded = torch.logaddexp(lse, lse.new_full((), math.log(self.padding)))
            out = out * (lse - padded).exp().unsqueeze(-1).to(out.dtype)
            lse = padded
        return out, lse


@lru_cache(maxsize=64)
def plan(segments: tuple[int, ...], ratios: tuple[int, ...], length: int, heads: int) -> tuple[Part, ...]:
    """The parts of a sequence; segments longer than the sequence shrink to it."""
    parts = []
    for branch, (segment, ratio) in enumerate(zip(segments, ratios, strict=True)):
        segment = min(segment, length)
        full, rest = divmod(length, segment)
        parts.append(Part(branch, 0, full, segment, ratio, heads, 0))
        if rest:
            padding = parts[-1].positions - -(-rest // ratio)
            parts.append(Part(branch, full * segment, 1, rest, ratio, heads, padding))
    return tuple(parts)


class _DilatedAttention(torch.autograd.Function):
    """Keeps ``q, k, v``, what the parts return and the weights; gathers again in the backward pass."""

    @staticmethod
    def forward(ctx: FunctionCtx, qkv: Tensor, parts: tuple[Part, ...]) -> Tensor:
        dense = qkv.permute(2, 0, 1, 3, 4)  # [3, B, L, H, D]
        outs, lses = zip(*(part.attend(dense) for part in parts), strict=True)
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
            factors = (factor for factor, _ in part.pairs(weight, sparse))
            for (target, source), factor in zip(part.pairs(total, sparse), factors, strict=True):
                target.addcmul_(source, factor)
        ctx.parts = parts
        ctx.save_for_backward(qkv, weights, *outs, *lses)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        qkv, weights, *results = ctx.saved_tensors
        outs, lses = results[: len(ctx.parts)], results[len(ctx.parts) :]
        dense = qkv.permute(2, 0, 1, 3, 4)
        total = torch.zeros_like(qkv)
        totals = total.permute(2, 0, 1, 3, 4)
        for part, out, lse in zip(ctx.parts, outs, lses, strict=True):
            weighted = part.empty(grad)
            factors = (factor for factor, _ in part.pairs(weights[part.branch], weighted))
            for (source, target), factor in zip(part.pairs(grad, weighted), factors, strict=True):
                torch.mul(source, factor, out=target)
            grads = attend_backward(weighted.flatten(0, 1), *part.gather(dense), out, lse)
            for one, sparse in zip(totals, grads, strict=True):
                for target, source in part.pairs(one, part.spread(sparse)):
                    target.add_(source)
        return total, None


def dilated_attention(qkv: Tensor, segments: Sequence[int], ratios: Sequence[int]) -> Tensor:
    """Dilated attention over the branches ``(segments[i], ratios[i])``.

    Args:
        qkv: queries, keys and values ``[B, L, 3, H, D]``.
        segments: segment lengths in positions.
        ratios: dilation of each branch; the first must be 1 so that every position is seen.

    Returns:
        ``[B, L, H, D]``, differentiable once. The weights between the branches are constants for the gradient.
    """
    _, length, _, heads, _ = qkv.shape
    return _DilatedAttention.apply(qkv, plan(tuple(segments), tuple(ratios), length, heads))
