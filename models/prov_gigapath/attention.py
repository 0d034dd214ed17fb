"""Attention that also returns its log-sum-exp, which LongNet needs to weigh its branches.

One pair of functions, several kernels (:mod:`models.prov_gigapath.attention_kernels`). Kernels below autograd
differ between versions of PyTorch and between GPUs, so each is tried once on a small input and named in the log;
one that fails is replaced by the next, in the end by the formula, which needs more memory.
"""

from __future__ import annotations

import logging
from functools import cache

import torch
from torch import Tensor
from torch.nn import attention as torch_attention

from models.prov_gigapath.attention_kernels import KERNELS, Kernel, Triple

logger = logging.getLogger(__name__)

# Relative errors that tell rounding from a wrong kernel.
_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def attend(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax attention with the scale ``D ** -0.5``; not for autograd, see :func:`attend_backward`.

    Args:
        q: queries ``[B, H, M, D]``.
        k: keys ``[B, H, N, D]``.
        v: values ``[B, H, N, D]``.

    Returns:
        The output ``[B, H, M, D]`` and the log-sum-exp of the scores ``[B, H, M]``.
    """
    return KERNELS[kernel_name(q.device, q.dtype, q.shape[-1])].forward(q, k, v)


def attend_backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor) -> Triple:
    """Gradients of ``q``, ``k`` and ``v`` of :func:`attend`, all ``[B, H, *, D]``.

    The weights are ``exp(score - lse)``. So ``out`` and ``lse`` may be those of a softmax over further keys
    of value 0: the gradients of the keys that are here are then those of that softmax.

    Args:
        grad: gradient of the output ``[B, H, M, D]``.
        q, k, v: as in :func:`attend`.
        out: the output ``[B, H, M, D]``.
        lse: the log-sum-exps ``[B, H, M]``.
    """
    return KERNELS[kernel_name(q.device, q.dtype, q.shape[-1])].backward(grad, q, k, v, out, lse)


@cache
def kernel_name(device: torch.device, dtype: torch.dtype, width: int) -> str:
    """The kernel for heads of ``width`` on a device: the first of the table that is right there."""
    for name, kernel in KERNELS.items():
        # The first and the last are PyTorch's and ours on every CPU: nothing to find out.
        if kernel.takes(device, dtype, width) and (
            name in ("cpu", "textbook") or _works(name, device, dtype, width)
        ):
            break
    kind = str(dtype).removeprefix("torch.")
    logger.log(
        logging.INFO if device.type == "cuda" else logging.DEBUG,
        "attention on %s, %s, heads of %d: kernel %r",
        device,
        kind,
        width,
        name,
    )
    return name


def _works(name: str, device: torch.device, dtype: torch.dtype, width: int) -> bool:
    """Whether a kernel agrees with the formula; PyTorch stays switched to it then."""
    kernel = KERNELS[name]
    if kernel.switch is None:
        return agrees_with_textbook(name, kernel, device, dtype, width)
    try:
        torch_attention.activate_flash_attention_impl(kernel.switch)
    except (RuntimeError, ImportError, AttributeError, ValueError) as error:
        logger.warning("PyTorch cannot switch to the kernel %r (%s): the next one is tried", name, error)
        return False
    if agrees_with_textbook(name, kernel, device, dtype, width):
        return True
    torch_attention.restore_flash_attention_impl()
    return False


def agrees_with_textbook(
    name: str, kernel: Kernel, device: torch.device, dtype: torch.dtype, width: int
) -> bool:
    """Whether a kernel gives the formula's output, log-sum-exp and gradients on this device, in float64."""
    generator = torch.Generator().manual_seed(0)
    q, k, v, grad = (
        torch.randn(1, 2, rows, width, generator=generator).to(device, dtype) for rows in (33, 40, 40, 33)
    )
    exact = [tensor.double() for tensor in (q, k, v)]
    formula = KERNELS["textbook"]
    out, lse = formula.forward(*exact)
    expected = (out, lse, *formula.backward(grad.double(), *exact, out, lse))
    try:
        out, lse = kernel.forward(q, k, v)
        found = (out, lse, *kernel.backward(grad, q, k, v, out, lse))
    except (RuntimeError, TypeError, AttributeError, ImportError) as error:
        logger.warning("the attention kernel %r cannot be used on %s: %s", name, device, error)
        return False
    worst = max(
        ((one.double() - other).norm() / other.norm()).item()
        for one, other in zip(found, expected, strict=True)
    )
    if not worst < _TOLERANCE[dtype]:
        logger.warning("the attention kernel %r is off by %.2g on %s and is not used", name, worst, device)
        return False
    return True
