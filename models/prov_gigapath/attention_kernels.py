"""The attention kernels that return their log-sum-exp and take it back for the gradients, one table of all.

They are called below autograd, because LongNet alters outputs and log-sum-exps between the forward and the
backward pass; no public interface of PyTorch allows that. Which one is taken, and whether it gives the right
numbers here, is decided in :mod:`models.prov_gigapath.attention`.

Symbols: ``q [B, H, M, D]``, ``k, v [B, H, N, D]``, output ``[B, H, M, D]``, log-sum-exp ``[B, H, M]`` float32.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import attention as torch_attention

_HALF = (torch.float16, torch.bfloat16)
# Compute capabilities: FlashAttention-2 needs Ampere, bfloat16 in all kernels as well.
_AMPERE = (8, 0)
# The memory-efficient kernel keeps rows of log-sum-exps in multiples of this.
_ROW_MULTIPLE = 32

Triple = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Kernel:
    """One way to compute attention.

    Attributes:
        forward: ``(q, k, v) -> (out, lse)``.
        backward: ``(grad, q, k, v, out, lse) -> (grad_q, grad_k, grad_v)``.
        takes: whether it may be tried on ``(device, dtype, D)``.
        switch: the implementation that PyTorch's flash attention has to be switched to for it.
    """

    forward: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    backward: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Triple]
    takes: Callable[[torch.device, torch.dtype, int], bool]
    switch: str | None = None


# ---------------------------------------------------------------------------- CPU
def _cpu(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)


def _cpu_backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor) -> Triple:
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    return backward(grad, q, k, v, out, lse.contiguous(), 0.0, False)


# ---------------------------------------------------------------------------- inside PyTorch, GPU
@cache
def _no_dropout(device: torch.device, dtype: torch.dtype, size: tuple[int, ...]) -> Tensor:
    """State of a random generator that is asked for and never read; made once."""
    with torch.inference_mode(False):
        return torch.zeros(size, dtype=dtype, device=device)


def _flash(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[:2]


def _flash_backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor) -> Triple:
    seed, offset = (_no_dropout(q.device, torch.uint64, size) for size in ((2,), (0,)))
    sizes = (None, None, q.shape[2], k.shape[2])
    backward = torch.ops.aten._scaled_dot_product_flash_attention_backward
    return backward(grad, q, k, v, out, lse.contiguous(), *sizes, 0.0, False, seed, offset)


def _efficient(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    nothing = (None, None, None, None, None)
    forward = torch.ops.aten._efficient_attention_forward
    out, lse = forward(q, k, v, *nothing, 0.0, 0, compute_log_sumexp=True)[:2]
    return out.transpose(1, 2), lse[..., : q.shape[1]]


def _efficient_backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor) -> Triple:
    grad, q, k, v, out = (tensor.transpose(1, 2) for tensor in (grad, q, k, v, out))
    padded = F.pad(lse, (0, -lse.shape[-1] % _ROW_MULTIPLE), value=torch.inf)
    state = _no_dropout(q.device, torch.int64, ())
    sizes = (None, None, q.shape[1], k.shape[1])
    backward = torch.ops.aten._efficient_attention_backward
    grads = backward(grad, q, k, v, None, out, *sizes, padded, 0.0, state, state, 0, False)[:3]
    return tuple(tensor.transpose(1, 2) for tensor in grads)


# ---------------------------------------------------------------------------- the package flash-attn
# Its autograd function would drop the gradient that padding needs, so the two halves are called by themselves.
def _package(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    from flash_attn.flash_attn_interface import _flash_attn_forward  # optional package

    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    out, lse = _flash_attn_forward(q, k, v, 0.0, q.shape[-1] ** -0.5, False, -1, -1, 0.0, None, False)[:2]
    return out.transpose(1, 2), lse


def _package_backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor) -> Triple:
    from flash_attn.flash_attn_interface import _flash_attn_backward  # optional package

    grad, q, k, v, out = (tensor.transpose(1, 2) for tensor in (grad, q, k, v, out))
    grads = tuple(torch.empty_like(tensor) for tensor in (q, k, v))
    options = (0.0, q.shape[-1] ** -0.5, False, -1, -1, 0.0, None, False)
    _flash_attn_backward(grad, q, k, v, out, lse.contiguous(), *grads, *options)
    return tuple(tensor.transpose(1, 2) for tensor in grads)


# ---------------------------------------------------------------------------- the formula
def textbook(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """The definition; holds all scores ``[B, H, M, N]``, at least in float32."""
    with torch.autocast(q.device.type, enabled=False):  # it would take the scores back to half precision
        scores = _scores(q, k)
        weights = scores.softmax(dim=-1).to(v.dtype)
        return weights @ v, scores.logsumexp(dim=-1)


def textbook_backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor) -> Triple:
    """Its derivative; the weights are ``exp(score - lse)``."""
    with torch.autocast(q.device.type, enabled=False):
        weights = (_scores(q, k) - lse.unsqueeze(-1)).exp()  # [B, H, M, N]
        grad, wide_q, wide_k, wide_v, out = (tensor.to(weights.dtype) for tensor in (grad, q, k, v, out))
        grad_scores = grad @ wide_v.transpose(-2, -1) - (grad * out).sum(dim=-1, keepdim=True)
        grad_scores = grad_scores * weights * q.shape[-1] ** -0.5
        grads = (
            grad_scores @ wide_k,
            grad_scores.transpose(-2, -1) @ wide_q,
            weights.transpose(-2, -1) @ grad,
        )
    return tuple(gradient.to(tensor.dtype) for gradient, tensor in zip(grads, (q, k, v), strict=True))


def _scores(q: Tensor, k: Tensor) -> Tensor:
    # Scaled before the product and summed in float32: float16 would overflow beyond 65,504.
    wide = torch.promote_types(q.dtype, torch.float32)
    return (q.to(wide) * q.shape[-1] ** -0.5) @ k.to(wide).transpose(-2, -1)


# ---------------------------------------------------------------------------- the table
def _on_gpu(device: torch.device, dtype: torch.dtype, width: int) -> bool:
    if device.type != "cuda" or dtype == torch.float64 or width % 8:
        return False
    return dtype != torch.bfloat16 or torch.cuda.get_device_capability(device) >= _AMPERE


def _takes_flash(device: torch.device, dtype: torch.dtype, width: int) -> bool:
    fits = _on_gpu(device, dtype, width) and dtype in _HALF
    return fits and torch.cuda.get_device_capability(device) >= _AMPERE


def _switched(package: str, majors: tuple[int, ...]) -> Callable[[torch.device, torch.dtype, int], bool]:
    def takes(device: torch.device, dtype: torch.dtype, width: int) -> bool:
        if not _takes_flash(device, dtype, width) or not hasattr(
            torch_attention, "activate_flash_attention_impl"
        ):
            return False
        return torch.cuda.get_device_capability(device)[0] in majors and _installed(package)

    return takes


def _installed(package: str) -> bool:
    parent = package.rpartition(".")[0]
    return (not parent or _installed(parent)) and importlib.util.find_spec(package) is not None


# In the order in which they are tried.
KERNELS: dict[str, Kernel] = {
    "cpu": Kernel(_cpu, _cpu_backward, lambda device, dtype, width: device.type == "cpu"),
    "flash 4": Kernel(_flash, _flash_backward, _switched("flash_attn.cute", (9, 10)), "FA4"),
    "flash 3": Kernel(_flash, _flash_backward, _switched("flash_attn_interface", (9,)), "FA3"),
    "flash": Kernel(_flash, _flash_backward, _takes_flash),
    "package flash-attn": Kernel(
        _package,
        _package_backward,
        lambda *key: _takes_flash(*key) and _installed("flash_attn.flash_attn_interface"),
    ),
    "efficient": Kernel(_efficient, _efficient_backward, _on_gpu),
    "textbook": Kernel(textbook, textbook_backward, lambda device, dtype, width: True),
}
