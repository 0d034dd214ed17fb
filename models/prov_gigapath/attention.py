"""Attention that also returns its log-sum-exp, which LongNet needs to weigh its branches.

One pair of functions, several kernels: the fused ones inside PyTorch (on GPUs FlashAttention-2 for half
precision and the memory-efficient kernel for float32), otherwise the textbook formula. They are called below
autograd, because LongNet alters outputs and log-sum-exps between the forward and the backward pass.
"""

from __future__ import annotations

import logging
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

logger = logging.getLogger(__name__)

_HALF = (torch.float16, torch.bfloat16)
# The memory-efficient kernel keeps rows of log-sum-exps in multiples of this.
_ROW_MULTIPLE = 32
# Relative errors that tell rounding from a wrong kernel.
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def attend(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax attention with the scale ``D ** -0.5``; not for autograd, see :func:`attend_backward`.

    Args:
        q: queries ``[B, M, H, D]``.
        k: keys ``[B, N, H, D]``.
        v: values ``[B, N, H, D]``.

    Returns:
        The output ``[B, M, H, D]`` and the log-sum-exp of the scores ``[B, M, H]``.
    """
    return _forward(_kernel(q), q, k, v)


def _forward(kernel: str, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    heads_first = (q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))  # views [B, H, *, D]
    if kernel == "cpu":
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*heads_first)
    elif kernel == "flash":
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention(*heads_first)[:2]
    elif kernel == "efficient":
        out, lse = torch.ops.aten._efficient_attention_forward(
            q, k, v, None, None, None, None, None, 0.0, 0, compute_log_sumexp=True
        )[:2]
        return out, lse[..., : q.shape[1]].transpose(1, 2)
    else:
        out, lse = _textbook_attention(*heads_first)
    return out.transpose(1, 2), lse.transpose(1, 2)


def attend_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``q``, ``k`` and ``v`` of :func:`attend`, all ``[B, *, H, D]``.

    The weights are ``exp(score - lse)``. So ``out`` and ``lse`` may be those of a softmax over further keys
    of value 0: the gradients of the keys that are here are then those of that softmax.

    Args:
        grad: gradient of the output ``[B, M, H, D]``.
        q, k, v: as in :func:`attend`.
        out: the output ``[B, M, H, D]``.
        lse: the log-sum-exps ``[B, M, H]``.
    """
    return _backward(_kernel(q), grad, q, k, v, out, lse)


def _backward(
    kernel: str, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    tensors = [tensor.transpose(1, 2) for tensor in (grad, q, k, v, out)]
    lse = lse.transpose(1, 2)
    rows, keys = q.shape[1], k.shape[1]
    if kernel == "cpu":
        backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        grads = backward(*tensors, lse.contiguous(), 0.0, False)
    elif kernel == "flash":
        backward = torch.ops.aten._scaled_dot_product_flash_attention_backward
        state = torch.zeros(2, dtype=torch.uint64, device=q.device)  # of the dropout that is not used
        grads = backward(*tensors, lse.contiguous(), None, None, rows, keys, 0.0, False, state, state[:0])
    elif kernel == "efficient":
        backward = torch.ops.aten._efficient_attention_backward
        padded = F.pad(lse, (0, -rows % _ROW_MULTIPLE), value=torch.inf)
        state = torch.zeros((), dtype=torch.int64, device=q.device)
        sizes = (None, None, rows, keys)
        return backward(grad, q, k, v, None, out, *sizes, padded, 0.0, state, state, 0, False)[:3]
    else:
        grads = _textbook_backward(*tensors, lse)
    return tuple(tensor.transpose(1, 2) for tensor in grads)


def _kernel(q: Tensor) -> str:
    """Which implementation takes this input."""
    if q.device.type == "cpu":
        return "cpu"
    if q.device.type == "cuda" and q.dtype != torch.float64 and q.shape[-1] % 8 == 0:
        kernel = "flash" if q.dtype in _HALF else "efficient"
        if _agrees_with_textbook(kernel, q.device, q.dtype, q.shape[-1]):
            return kernel
    return "textbook"


@cache
def _agrees_with_textbook(kernel: str, device: torch.device, dtype: torch.dtype, width: int) -> bool:
    """Whether a kernel gives the formula's output, log-sum-exp and gradients on this device.

    Kernels below autograd are no public interface, and differ between versions of PyTorch and GPUs. So each is
    tried once, on a small input; one that fails is replaced by the formula, which needs more memory.
    """
    generator = torch.Generator().manual_seed(0)
    q, k, v, grad = (
        torch.randn(1, rows, 2, width, generator=generator).to(device, dtype) for rows in (33, 40, 40, 33)
    )
    exact = [tensor.double() for tensor in (q, k, v)]
    out, lse = _forward("textbook", *exact)
    expected = (out, lse, *_backward("textbook", grad.double(), *exact, out, lse))
    try:
        out, lse = _forward(kernel, q, k, v)
        found = (out, lse, *_backward(kernel, grad, q, k, v, out, lse))
    except (RuntimeError, TypeError, AttributeError) as error:
        logger.warning(
            "the %s attention kernel cannot be used on %s (%s): slower attention", kernel, device, error
        )
        return False
    worst = max(
        ((one.double() - other).norm() / other.norm()).item()
        for one, other in zip(found, expected, strict=True)
    )
    if not worst < _TOLERANCE[dtype]:
        logger.warning(
            "the %s attention kernel is off by %.2g on %s: slower attention", kernel, worst, device
        )
        return False
    return True


def _textbook_attention(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5  # [B, H, M, N]
    return scores.softmax(dim=-1) @ v, scores.logsumexp(dim=-1)


def _textbook_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    scale = q.shape[-1] ** -0.5
    weights = (q @ k.transpose(-2, -1) * scale - lse.unsqueeze(-1)).exp().to(q.dtype)  # [B, H, M, N]
    grad_scores = grad @ v.transpose(-2, -1) - (grad * out).sum(dim=-1, keepdim=True)
    grad_scores = grad_scores * weights * scale
    return grad_scores @ k, grad_scores.transpose(-2, -1) @ q, weights.transpose(-2, -1) @ grad
