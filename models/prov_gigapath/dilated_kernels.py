"""The copies of dilated attention as three Triton kernels, for GPUs.

PyTorch needs some hundred small kernels a layer to gather what the branches see, to weigh them and to add up
their gradients; here all branches are one launch each. Every program owns some (position, head) pairs of one
sequence and finds their places in the branches by arithmetic, so nothing is added atomically and results do not
depend on the order of programs. Sums are formed in float32 (PyTorch's way rounds after every branch).

Attention itself runs in between, one kernel a part. Triton's interpreter runs the same code on CPUs (tests).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from models.prov_gigapath.attention import attend, attend_backward
from models.prov_gigapath.dilated_parts import ABSENT, Part

HAS_TRITON = importlib.util.find_spec("triton") is not None
if HAS_TRITON:
    import triton
    import triton.language as tl

# Pairs of position and head of a program.
_ROWS = 32


def takes(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernels are meant for inputs of this kind."""
    return HAS_TRITON and device.type == "cuda" and dtype != torch.float64


if HAS_TRITON:
    # Lengths differ from case to case: without this there would be versions for multiples of 16.
    _ANY_LENGTH = ["length", "total"]

    @triton.jit
    def _place(
        position, head, length, batch, number, SEGMENT: tl.constexpr, RATIO: tl.constexpr, HEADS: tl.constexpr
    ):
        """Where a branch has a (position, head): in the shorter last segment or not, row, and what else is told."""
        group = head // ((HEADS + RATIO - 1) // RATIO)
        width = tl.minimum(length, SEGMENT)
        full = length // width
        last = length - full * width
        rows, last_rows = (width + RATIO - 1) // RATIO, (last + RATIO - 1) // RATIO
        segment = position // width
        inside = position - segment * width
        late = segment == full
        index = tl.where(late, batch, batch * full + segment).to(tl.int64)
        row = (index * HEADS + head) * tl.where(late, last_rows, rows) + inside // RATIO
        seen = (inside % RATIO == group) & (position < length)
        # The first position of a segment's last row answers for heads that see nothing there.
        end = tl.where(late, last, width)
        blank = (
            (inside % RATIO == 0) & (inside + RATIO >= end) & (inside + group >= end) & (position < length)
        )
        all_rows = number * HEADS * full.to(tl.int64) * rows
        padding = tl.where(late, rows - last_rows, 0)
        return late, row, seen, blank, all_rows, number * HEADS * last_rows, padding

    @triton.jit
    def _padded(lse, padding):
        """The log-sum-exp with ``padding`` further scores of 0."""
        zeros = tl.where(padding > 0, tl.log(tl.maximum(padding, 1).to(tl.float32)), float("-inf"))
        peak = tl.maximum(lse, zeros)
        return tl.where(padding > 0, peak + tl.log(tl.exp(lse - peak) + tl.exp(zeros - peak)), lse)

    @triton.jit(do_not_specialize=_ANY_LENGTH)
    def _gather(
        dense,
        weights,
        sparse,
        length,
        total,
        WEIGHTED: tl.constexpr,
        SEGMENTS: tl.constexpr,
        RATIOS: tl.constexpr,
        HEADS: tl.constexpr,
        WIDTH: tl.constexpr,
        ROWS: tl.constexpr,
        COLUMNS: tl.constexpr,
    ):
        """``dense [B, L, W, H, D]``, ``weights [branches, B, L, H]`` -> ``sparse [W, total, D]``."""
        pair = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        position, head = pair // HEADS, pair % HEADS
        batch, which = tl.program_id(1), tl.program_id(2)
        number, kinds = tl.num_programs(1), tl.num_programs(2)
        column = tl.arange(0, COLUMNS)[None, :]
        token = batch.to(tl.int64) * length + position
        source = ((token * kinds + which) * HEADS + head) * WIDTH
        here = (position < length)[:, None] & (column < WIDTH)
        value = tl.load(dense + source[:, None] + column, mask=here, other=0.0)
        start = which.to(tl.int64) * total
        for branch in tl.static_range(len(SEGMENTS)):
            late, row, seen, blank, full_rows, last_rows, _padding = _place(
                position, head, length, batch, number, SEGMENTS[branch], RATIOS[branch], HEADS
            )
            row = start + tl.where(late, full_rows + row, row)
            written = value
            if WEIGHTED:
                weight = (branch * number.to(tl.int64) * length + token) * HEADS + head
                factor = tl.load(weights + weight, mask=seen, other=0.0)
                written = (value.to(tl.float32) * factor[:, None]).to(value.dtype)
            written = tl.where(seen[:, None], written, 0.0).to(value.dtype)
            target = sparse + row[:, None] * WIDTH + column
            tl.store(target, written, mask=(seen | blank)[:, None] & (column < WIDTH))
            start += full_rows + last_rows

    @triton.jit(do_not_specialize=_ANY_LENGTH)
    def _combine(
        outs,
        lses,
        total,
        weights,
        length,
        MISSING: tl.constexpr,
        SEGMENTS: tl.constexpr,
        RATIOS: tl.constexpr,
        HEADS: tl.constexpr,
        WIDTH: tl.constexpr,
        ROWS: tl.constexpr,
        COLUMNS: tl.constexpr,
    ):
        """Weighs the branches: ``total [B, L, H, D]``, ``weights [branches, B, L, H]``.

        ``outs`` and ``lses`` hold, for every branch, what attention gave over the full segments and over the last
        one. Of the last one they are corrected in place for the padding of the published encoder.
        """
        pair = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        position, head = pair // HEADS, pair % HEADS
        batch, number = tl.program_id(1), tl.num_programs(1)
        column = tl.arange(0, COLUMNS)[None, :]
        token = batch.to(tl.int64) * length + position
        peak = tl.full((ROWS,), float("-inf"), tl.float32)
        norm = tl.full((ROWS,), 0.0, tl.float32)
        for branch in tl.static_range(len(SEGMENTS)):
            late, row, seen, _blank, _full, _last, padding = _place(
                position, head, length, batch, number, SEGMENTS[branch], RATIOS[branch], HEADS
            )
            lse = tl.load(lses[2 * branch] + row, mask=seen & (late == 0), other=0.0)
            lse += tl.load(lses[2 * branch + 1] + row, mask=seen & late, other=0.0)
            lse = _padded(lse, padding)
            lse = tl.where(seen & (lse != 0), lse, MISSING)
            higher = tl.maximum(peak, lse)
            norm = norm * tl.exp(peak - higher) + tl.exp(lse - higher)
            peak = higher
        summed = tl.full((ROWS, COLUMNS), 0.0, tl.float32)
        for branch in tl.static_range(len(SEGMENTS)):
            late, row, seen, _blank, _full, _last, padding = _place(
                position, head, length, batch, number, SEGMENTS[branch], RATIOS[branch], HEADS
            )
            bare = tl.load(lses[2 * branch] + row, mask=seen & (late == 0), other=0.0)
            bare += tl.load(lses[2 * branch + 1] + row, mask=seen & late, other=0.0)
            lse = _padded(bare, padding)
            share = tl.where(seen & (lse != 0), lse, MISSING)
            share = tl.where(seen, tl.exp(share - peak) / norm, 0.0)
            place = (branch * number.to(tl.int64) * length + token) * HEADS + head
            tl.store(weights + place, share, mask=position < length)
            element = row[:, None] * WIDTH + column
            inside = column < WIDTH
            first = tl.load(
                outs[2 * branch] + element, mask=(seen & (late == 0))[:, None] & inside, other=0.0
            )
            second = tl.load(outs[2 * branch + 1] + element, mask=(seen & late)[:, None] & inside, other=0.0)
            out = (first + second).to(tl.float32) * tl.exp(bare - lse)[:, None]
            changed = seen & late & (padding > 0)
            tl.store(outs[2 * branch + 1] + element, out.to(first.dtype), mask=changed[:, None] & inside)
            tl.store(lses[2 * branch + 1] + row, lse, mask=changed)
            summed += out * share[:, None]
        target = total + (token * HEADS + head)[:, None] * WIDTH + column
        written = summed.to(total.dtype.element_ty)
        tl.store(target, written, mask=(position < length)[:, None] & (column < WIDTH))

    @triton.jit(do_not_specialize=_ANY_LENGTH)
    def _add_up(
        grads,
        total,
        length,
        SEGMENTS: tl.constexpr,
        RATIOS: tl.constexpr,
        HEADS: tl.constexpr,
        WIDTH: tl.constexpr,
        ROWS: tl.constexpr,
        COLUMNS: tl.constexpr,
    ):
        """``grads`` of q, k and v, for every branch over full and last segments -> ``total [B, L, 3, H, D]``."""
        pair = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        position, head = pair // HEADS, pair % HEADS
        batch, number = tl.program_id(1), tl.num_programs(1)
        column = tl.arange(0, COLUMNS)[None, :]
        token = batch.to(tl.int64) * length + position
        for which in tl.static_range(3):
            summed = tl.full((ROWS, COLUMNS), 0.0, tl.float32)
            for branch in tl.static_range(len(SEGMENTS)):
                late, row, seen, _blank, _full, _last, _padding = _place(
                    position, head, length, batch, number, SEGMENTS[branch], RATIOS[branch], HEADS
                )
                element = row[:, None] * WIDTH + column
                inside = seen[:, None] & (column < WIDTH)
                full = grads[which * 2 * len(SEGMENTS) + 2 * branch]
                last = grads[which * 2 * len(SEGMENTS) + 2 * branch + 1]
                summed += tl.load(full + element, mask=inside & (late == 0)[:, None], other=0.0).to(
                    tl.float32
                )
                summed += tl.load(last + element, mask=inside & late[:, None], other=0.0).to(tl.float32)
            target = total + ((token * 3 + which) * HEADS + head)[:, None] * WIDTH + column
            written = summed.to(total.dtype.element_ty)
            tl.store(target, written, mask=(position < length)[:, None] & (column < WIDTH))


def _grid(length: int, heads: int, *others: int) -> tuple[int, ...]:
    return (-(-length * heads // _ROWS), *others)


def _shape(parts: Sequence[Part], width: int) -> dict[str, object]:
    """What the kernels are compiled for: the same for all lengths of a model."""
    branches = {part.branch: part for part in reversed(parts)}  # of every branch its first part
    chosen = [branches[number] for number in sorted(branches)]
    return {
        "SEGMENTS": tuple(part.segment for part in chosen),
        "RATIOS": tuple(part.ratio for part in chosen),
        "HEADS": parts[0].heads,
        "WIDTH": width,
        "ROWS": _ROWS,
        "COLUMNS": 1 << (width - 1).bit_length(),
    }


def _by_branch(parts: Sequence[Part], tensors: Sequence[Tensor]) -> list[Tensor]:
    """For every branch the tensor of its full segments and that of the last one (again the first, if none)."""
    found: dict[int, list[Tensor]] = {}
    for part, tensor in zip(parts, tensors, strict=True):
        found.setdefault(part.branch, []).append(tensor)
    return [tensor for number in sorted(found) for tensor in (found[number][0], found[number][-1])]


def gather(parts: Sequence[Part], dense: Tensor, weights: Tensor | None = None) -> list[tuple[Tensor, ...]]:
    """What the parts see of ``dense [B, L, W, H, D]``, weighed where ``weights [branches, B, L, H]`` are given.

    Returns:
        For every part ``W`` tensors ``[B * n, H, M, D]``, zero where a head sees less than ``M`` positions.
    """
    dense = dense.contiguous()
    batch, length, kinds, heads, width = dense.shape
    sizes = [(batch * part.count, heads, part.positions) for part in parts]
    counts = [a * b * c for a, b, c in sizes]
    sparse = dense.new_empty(kinds, sum(counts), width)
    _gather[_grid(length, heads, batch, kinds)](
        dense,
        dense if weights is None else weights,
        sparse,
        length,
        sum(counts),
        WEIGHTED=weights is not None,
        **_shape(parts, width),
    )
    pieces = sparse.split(counts, dim=1)
    return [piece.view(kinds, *size, width).unbind() for piece, size in zip(pieces, sizes, strict=True)]


def combine(
    parts: Sequence[Part], outs: list[Tensor], lses: list[Tensor], batch: int, length: int
) -> tuple[Tensor, Tensor]:
    """The average of the branches ``[B, L, H, D]`` and their weights ``[branches, B, L, H]``, float32.

    ``outs [B * n, H, M, D]`` and ``lses [B * n, H, M]`` of the parts (contiguous) are corrected for padding.
    """
    _, heads, _, width = outs[0].shape
    total = outs[0].new_empty(batch, length, heads, width)
    weights = lses[0].new_empty(parts[-1].branch + 1, batch, length, heads)
    _combine[_grid(length, heads, batch)](
        tuple(_by_branch(parts, outs)),
        tuple(_by_branch(parts, lses)),
        total,
        weights,
        length,
        MISSING=ABSENT,
        **_shape(parts, width),
    )
    return total, weights


def add_up(parts: Sequence[Part], grads: Sequence[Sequence[Tensor]], like: Tensor) -> Tensor:
    """Gradients of q, k and v of every part, ``[B * n, H, M, D]``, as one ``[B, L, 3, H, D]``."""
    total = torch.empty_like(like, memory_format=torch.contiguous_format)
    batch, length, _, heads, width = like.shape
    ordered = [
        tensor
        for kind in zip(*grads, strict=True)
        for tensor in _by_branch(parts, [t.contiguous() for t in kind])
    ]
    _add_up[_grid(length, heads, batch)](tuple(ordered), total, length, **_shape(parts, width))
    return total


class FusedDilatedAttention(torch.autograd.Function):
    """As :class:`models.prov_gigapath.dilated_attention.StridedDilatedAttention`, with fused copies."""

    @staticmethod
    def forward(ctx: FunctionCtx, qkv: Tensor, parts: tuple[Part, ...]) -> Tensor:
        pairs = [attend(*tensors) for tensors in gather(parts, qkv)]
        outs, lses = ([tensor.contiguous() for tensor in kind] for kind in zip(*pairs, strict=True))
        total, weights = combine(parts, outs, lses, *qkv.shape[:2])
        ctx.parts = parts
        ctx.save_for_backward(qkv, weights, *outs, *lses)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        qkv, weights, *results = ctx.saved_tensors
        outs, lses = results[: len(ctx.parts)], results[len(ctx.parts) :]
        weighted = gather(ctx.parts, grad.unsqueeze(2), weights)
        rows = zip(weighted, gather(ctx.parts, qkv), outs, lses, strict=True)
        grads = [attend_backward(*given, *inputs, out, lse) for given, inputs, out, lse in rows]
        return add_up(ctx.parts, grads, qkv), None
