"""Attention that also returns its log-sum-exp, which LongNet needs to weigh its branches.

One function, several kernels: flash-attn where it is installed and the input suits it, otherwise
the fused kernels inside PyTorch, otherwise the textbook formula.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

_HALF = (torch.float16, torch.bfloat16)
HAS_FLASH_ATTN = importlib.util.find_spec("flash_attn") is not None


def attend(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax attention with the scale ``D ** -0.5``.

    Args:
        q: queries ``[B, M, H, D]``.
        k: keys ``[B, N, H, D]``.
        v: values ``[B, N, H, D]``.

    Returns:
        The output ``[B, M, H, D]``, differentiable, and the log-sum-exp of the scores
        ``[B, M, H]``, which carries no gradient.
    """
    if q.device.type == "cuda" and q.dtype in _HALF and HAS_FLASH_ATTN:
        from flash_attn import flash_attn_func

        out, lse, _ = flash_attn_func(q, k, v, return_attn_probs=True)
        return out, lse.detach().transpose(1, 2)

    # PyTorch's kernels want heads before positions; these are views.
    heads_first = (q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    if q.device.type == "cpu":
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*heads_first)
    elif q.device.type == "cuda" and q.dtype in _HALF and q.shape[-1] % 8 == 0:
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention(*heads_first)[:2]
    elif q.device.type == "cuda" and q.dtype != torch.float64 and q.shape[-1] % 8 == 0:
        out, lse = torch.ops.aten._scaled_dot_product_efficient_attention(
            *heads_first, attn_bias=None, compute_log_sumexp=True
        )[:2]
        lse = lse[..., : q.shape[1]]  # this kernel pads the rows to a multiple of 32
    else:
        out, lse = _textbook_attention(*heads_first)
    return out.transpose(1, 2), lse.detach().transpose(1, 2)


def _textbook_attention(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5  # [B, H, M, N]
    return scores.softmax(dim=-1) @ v, scores.logsumexp(dim=-1)
