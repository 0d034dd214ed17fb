"""Dilated attention of LongNet (Ding et al. 2023, arXiv:2307.02486), as Prov-GigaPath uses it.

A branch ``(segment, ratio)`` cuts the sequence into segments and lets every head see each
``ratio``-th position of its segment; heads are split into ``ratio`` groups that start at different
offsets. The branches of a position are then averaged with weights from their log-sum-exps.

Only the positions a branch really sees are copied (``1 / ratio`` of the sequence), and gradients
of all branches accumulate in one buffer. Zeros that fill up the last segment and the last stride
are ordinary keys with score 0 and value 0, as in the published encoder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from models.prov_gigapath.attention import attend

# Stands for the log-sum-exp of a branch that has not seen a position.
_ABSENT = -1e8


@dataclass(frozen=True)
class Branch:
    """Geometry of one dilated branch for a sequence of ``length`` positions and ``heads`` heads."""

    segment: int
    ratio: int
    length: int
    heads: int

    @classmethod
    def plan(cls, segments: Sequence[int], ratios: Sequence[int], length: int, heads: int) -> list[Branch]:
        """The branches of a sequence; segments longer than the sequence shrink to it."""
        return [cls(min(w, length), r, length, heads) for w, r in zip(segments, ratios, strict=True)]

    @property
    def num_segments(self) -> int:
        return -(-self.length // self.segment)

    @property
    def positions(self) -> int:
        """Positions of a segment that one head sees."""
        return -(-self.segment // self.ratio)

    def _is_padded(self) -> bool:
        return self.length % self.segment != 0 or self.segment % self.ratio != 0

    def pairs(self, dense: Tensor, sparse: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Views of ``dense [B, L, H, *]`` beside the same elements of ``sparse [B * n, M, H, *]``.

        Together the pairs cover every element of the branch that is no padding, each once.
        """
        batch, width = dense.shape[0], dense.shape[3]
        w, r = self.segment, self.ratio
        full = self.length // w
        whole = dense[:, : full * w].unflatten(1, (full, w))  # [B, full, w, H, *]
        rest = dense[:, full * w :]  # [B, L - full * w, H, *]
        sparse = sparse.view(batch, self.num_segments, self.positions, self.heads, width)
        group = -(-self.heads // r)
        for offset in range(r):
            heads = slice(offset * group, (offset + 1) * group)
            if heads.start >= self.heads:
                break
            seen = whole[:, :, offset::r, heads]
            yield seen, sparse[:, :full, : seen.shape[2], heads]
            if rest.shape[1] > offset:
                seen = rest[:, offset::r, heads]
                yield seen, sparse[:, full, : seen.shape[1], heads]

    def gather(self, dense: Tensor) -> Tensor:
        """What the branch sees of ``dense [B, L, H, D]``: ``[B * n, M, H, D]``, zeros where padded."""
        new = dense.new_zeros if self._is_padded() else dense.new_empty
        sparse = new(dense.shape[0] * self.num_segments, self.positions, self.heads, dense.shape[3])
        for source, target in self.pairs(dense, sparse):
            target.copy_(source)
        return sparse


class _Gather(torch.autograd.Function):
    """Gathers every tensor for every branch; the backward pass adds into one buffer per tensor."""

    @staticmethod
    def forward(ctx: FunctionCtx, branches: list[Branch], *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.branches, ctx.shape = branches, tensors[0].shape
        return tuple(branch.gather(tensor) for branch in branches for tensor in tensors)

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        count = len(grads) // len(ctx.branches)
        totals = [grads[0].new_zeros(ctx.shape) for _ in range(count)]
        for index, grad in enumerate(grads):
            branch, total = ctx.branches[index // count], totals[index % count]
            for target, source in branch.pairs(total, grad):
                target.add_(source)
        return None, *totals


class _Combine(torch.autograd.Function):
    """Weighted sum of the branches' outputs at the positions they have seen."""

    @staticmethod
    def forward(ctx: FunctionCtx, branches: list[Branch], weights: Tensor, *outs: Tensor) -> Tensor:
        ctx.branches = branches
        ctx.save_for_backward(weights)
        batch, length, heads, _ = weights.shape[1:]
        total = outs[0].new_zeros(batch, length, heads, outs[0].shape[-1])
        for branch, weight, out in zip(branches, weights, outs, strict=True):
            sparse_weight = branch.gather(weight)
            for target, source in branch.pairs(total, out * sparse_weight):
                target.add_(source)
        return total

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        (weights,) = ctx.saved_tensors
        outs = (b.gather(grad).mul_(b.gather(w)) for b, w in zip(ctx.branches, weights, strict=True))
        return None, None, *outs


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
        ``[B, L, H, D]``. The weights between the branches are constants for the gradient.
    """
    batch, length, heads, _ = q.shape
    branches = Branch.plan(segments, ratios, length, heads)
    gathered = _Gather.apply(branches, q, k, v)

    outs = []
    precision = torch.promote_types(q.dtype, torch.float32)
    shape = (len(branches), batch, length, heads, 1)
    weights = torch.full(shape, _ABSENT, dtype=precision, device=q.device)
    for index, branch in enumerate(branches):
        out, lse = attend(*gathered[3 * index : 3 * index + 3])
        # The published encoder marks unseen positions by a zero, so a log-sum-exp of exactly zero
        # counts as unseen too.
        lse = lse.to(precision).masked_fill(lse == 0, _ABSENT).unsqueeze(-1)
        for target, source in branch.pairs(weights[index], lse):
            target.copy_(source)
        outs.append(out)
    weights = weights.softmax(dim=0).to(q.dtype)
    return _Combine.apply(branches, weights, *outs)
