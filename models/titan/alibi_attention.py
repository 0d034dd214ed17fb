"""Self-attention with 2-D ALiBi positions: exact, and linear in memory.

The score of two patch tokens is lowered by a slope of the head times the Euclidean distance of their
grid cells (Press et al. 2022, carried to two dimensions by TITAN, Ding et al. 2024). Nothing here ever
holds an ``N x N`` tensor: either one GPU kernel computes distances inside (``flex_attention``), or blocks
of queries run one after the other, each with its own strip of biases, which the backward pass computes
again.

Symbols: ``T`` task copies, ``N`` tokens of which the first is CLS, ``H`` heads, ``D`` width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn.attention.flex_attention import flex_attention

from models.compilation import allow_versions, obstacle

# Largest strip of biases [h, M, N], in bytes; decides how many queries M make up a block.
BIAS_BYTES = 128 * 2**20
# Heads that share a strip: the fewer, the more queries, and a kernel that reads all keys for a few queries is
# slow; but the backward kernel gives whole heads to its threads.
_HEADS = 4
# Rows of a block are a multiple of this where possible: the kernels work on as many at a time.
_ROW_MULTIPLE = 32
# Narrower heads are refused by flex_attention.
_MIN_FLEX_WIDTH = 16


def alibi_slopes(num_heads: int) -> Tensor:
    """Slopes ``[H]`` of the heads, float32.

    A power of two has the geometric series ``2 ** (-8 / H), 2 ** (-16 / H), ...``; other numbers take
    the series of the next lower power and fill up with every second entry of the next higher one.
    """

    def series(count: int) -> list[float]:
        return [2.0 ** (-8.0 * (i + 1) / count) for i in range(count)]

    lower = 2 ** int(math.log2(num_heads))
    return torch.tensor(series(lower) + series(2 * lower)[::2][: num_heads - lower])


def alibi_attention(qkv: Tensor, cells: Tensor, slopes: Tensor) -> Tensor:
    """Softmax attention with the scale ``D ** -0.5`` and 2-D ALiBi biases.

    Args:
        qkv: projected queries, keys and values ``[T, N, 3, H, D]``.
        cells: grid cells of the tokens ``[N, 2]``, the same for all copies. Row 0 stands for CLS, whose
            biases are 0 both ways; its value does not matter.
        slopes: ``[H]``.

    Returns:
        ``[T, N, H, D]``; differentiable with respect to ``qkv`` once.
    """
    wide = torch.promote_types(qkv.dtype, torch.float32)
    axes = cells.to(wide).T.contiguous()  # [2, N]
    # Precision is chosen here, not by autocast: positions need float32 whatever the features are.
    with torch.autocast(qkv.device.type, enabled=False):
        if _flex_fits(qkv):
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            return _compiled_flex()(q, k, v, axes[0], axes[1], slopes.to(wide)).transpose(1, 2)
        return _BlockedAttention.apply(qkv, axes, slopes.to(wide))


# ---------------------------------------------------------------------------- one kernel (GPU)
def _flex_fits(qkv: Tensor) -> bool:
    """Whether ``flex_attention`` can be compiled for this input.

    Without compilation it would hold all scores in memory. ``TORCH_COMPILE_DISABLE=1`` therefore also
    selects the blocks.
    """
    return (
        qkv.device.type == "cuda"
        and qkv.dtype != torch.float64
        and qkv.shape[-1] >= _MIN_FLEX_WIDTH
        and obstacle("cuda") is None
    )


def _flex(q: Tensor, k: Tensor, v: Tensor, x: Tensor, y: Tensor, slopes: Tensor) -> Tensor:
    """``q, k, v [T, H, N, D]``, cells ``x, y [N]``, slopes ``[H]`` -> ``[T, H, N, D]``."""

    def add_bias(score: Tensor, batch: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
        dx, dy = x[i] - x[j], y[i] - y[j]
        distance = torch.sqrt(dx * dx + dy * dy)
        return score - slopes[head] * torch.where((i > 0) & (j > 0), distance, 0.0)

    return flex_attention(q, k, v, score_mod=add_bias)


@cache
def _compiled_flex() -> Callable[..., Tensor]:
    # Training or not, up to 128 tokens or more, one copy or several: versions beyond PyTorch's limit of 8.
    allow_versions()
    # Slides differ in N. Where it cannot be compiled it must fail: uncompiled, it holds all scores.
    return torch.compile(_flex, dynamic=True, fullgraph=True)


# ---------------------------------------------------------------------------- blocks of queries
class _BlockedAttention(torch.autograd.Function):
    """Attention one strip of queries of a few heads at a time.

    Works on copies of ``q, k, v`` with the heads first: rows that lie ``3 * E`` apart make the kernels a quarter
    slower. Keeps these copies, the output and its log-sum-exp.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, qkv: Tensor, axes: Tensor, slopes: Tensor) -> Tensor:
        attend, _ = _kernels(qkv.device)
        out = qkv.new_empty(*qkv.shape[:2], *qkv.shape[3:])  # [T, N, H, D]
        lse = axes.new_empty(out.shape[0], out.shape[2], out.shape[1])  # [T, H, N]
        qkv = qkv.permute(2, 0, 3, 1, 4).contiguous()  # [3, T, H, N, D]
        for heads, rows, bias in _bias_strips(axes, slopes):
            q, k, v = qkv[:, :, heads]
            strip, lse[:, heads, rows] = attend(q[:, :, rows], k, v, bias)
            out[:, rows, heads] = strip.transpose(1, 2)
        ctx.save_for_backward(qkv, axes, slopes, out, lse)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_out: Tensor) -> tuple[Tensor, None, None]:
        qkv, axes, slopes, out, lse = ctx.saved_tensors
        _, differentiate = _kernels(qkv.device)
        grad_out, out = grad_out.transpose(1, 2).contiguous(), out.transpose(1, 2)
        # Keys and values collect from every strip, so they do it in the wide type.
        grad_qkv = axes.new_zeros(qkv.shape)
        with torch.autocast(qkv.device.type, enabled=False):
            for heads, rows, bias in _bias_strips(axes, slopes):
                q, k, v = qkv[:, :, heads]
                grad_q, grad_k, grad_v = grad_qkv[:, :, heads]
                results = (out[:, heads, rows], lse[:, heads, rows])
                part = (grad_out[:, heads, rows], q[:, :, rows], k, v, *results)
                strip_q, strip_k, strip_v = differentiate(*part, bias)
                grad_q[:, :, rows] = strip_q
                grad_k += strip_k
                grad_v += strip_v
        return grad_qkv.permute(1, 3, 0, 2, 4).to(qkv.dtype), None, None


def _bias_strips(axes: Tensor, slopes: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yields heads, a range of queries and their biases ``[1, h, M, N]``; the memory is used again each time."""
    length, together = axes.shape[1], min(_HEADS, len(slopes))
    size = max(1, BIAS_BYTES // (length * together * axes.element_size()))
    size = min(size // _ROW_MULTIPLE * _ROW_MULTIPLE or size, length)
    buffer = axes.new_empty(together * size * length)
    for start in range(0, length, size):
        rows = slice(start, min(start + size, length))
        distances = _distances(axes, rows)
        for first in range(0, len(slopes), together):
            heads = slice(first, first + together)
            factors = -slopes[heads].view(-1, 1, 1)
            shape = (len(factors), *distances.shape)
            bias = torch.mul(distances, factors, out=buffer[: math.prod(shape)].view(shape))
            yield heads, rows, bias.unsqueeze(0)


def _distances(axes: Tensor, rows: slice) -> Tensor:
    """Distances ``[M, N]`` of the cells of some tokens to all; 0 where one of them is CLS."""
    x, y = axes
    dx, dy = x[rows, None] - x, y[rows, None] - y
    distances = dx.mul_(dx).addcmul_(dy, dy).sqrt_()
    distances[:, 0] = 0
    if rows.start == 0:
        distances[0] = 0
    return distances


def _kernels(device: torch.device) -> tuple[Callable[..., tuple], Callable[..., tuple]]:
    """Attention of a strip of queries, and its derivative."""
    return (_fused, _fused_backward) if device.type == "cpu" else (_plain, _plain_backward)


def _fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """``q [T, H, M, D]``, ``k, v [T, H, N, D]``, ``bias [1, H, M, N]`` -> output and log-sum-exp."""
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, attn_mask=bias)


def _fused_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        grad, q, k, v, out, lse, 0.0, False, attn_mask=bias
    )


def _plain(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The formula, for devices without a fused kernel that takes a bias and gives the log-sum-exp."""
    q, k, v = (tensor.to(bias.dtype) for tensor in (q, k, v))
    scores = (q @ k.transpose(-2, -1)).mul_(q.shape[-1] ** -0.5).add_(bias)  # [T, H, M, N]
    lse = scores.logsumexp(dim=-1)
    return scores.sub_(lse.unsqueeze(-1)).exp_() @ v, lse


def _plain_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    grad, q, k, v, out = (tensor.to(bias.dtype) for tensor in (grad, q, k, v, out))
    scale = q.shape[-1] ** -0.5
    weights = (q @ k.transpose(-2, -1)).mul_(scale).add_(bias).sub_(lse.unsqueeze(-1)).exp_()
    grad_v = weights.transpose(-2, -1) @ grad
    grad_scores = grad @ v.transpose(-2, -1)
    grad_scores.sub_((grad * out).sum(dim=-1, keepdim=True)).mul_(weights).mul_(scale)
    return grad_scores @ k, grad_scores.transpose(-2, -1) @ q, grad_v
