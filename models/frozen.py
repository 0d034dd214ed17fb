"""Frozen modules: their linear layers pass gradients on without having any, by a faster kernel on CPUs."""

from __future__ import annotations

import logging
from functools import cache
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

logger = logging.getLogger(__name__)

Module = TypeVar("Module", bound=nn.Module)


def freeze(module: Module) -> Module:
    """Freezes all parameters and turns the linear layers into :class:`FrozenLinear`; returns ``module``."""
    for layer in module.requires_grad_(False).modules():
        if type(layer) is nn.Linear:
            layer.__class__ = FrozenLinear
    return module


class FrozenLinear(nn.Linear):
    """:class:`torch.nn.Linear` with frozen parameters.

    For float32 on CPUs PyTorch calls MKL, which on AMD processors lies a fifth or more behind oneDNN, the library
    of its other precisions; so this layer calls oneDNN itself.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``[..., D_in] -> [..., D_out]``; differentiable once with respect to ``x``."""
        plain_float32 = x.dtype == self.weight.dtype == torch.float32
        if (
            x.device.type == "cpu"
            and plain_float32
            and not self.weight.requires_grad
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_compiling()
            and has_onednn()
        ):
            return _OneDnnLinear.apply(x, self.weight, self.bias)
        return super().forward(x)


@cache
def has_onednn() -> bool:
    """Whether this PyTorch has oneDNN's linear layer, and it gives the right numbers."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    x, weight, bias = (torch.linspace(-1, 1, n).sin() for n in (6 * 32, 48 * 32, 48))
    x, weight = x.view(6, 32), weight.view(48, 32)
    try:
        found = _product(_product(x, weight, bias), weight.t(), None)
    except RuntimeError as error:
        logger.warning("oneDNN's linear layer cannot be used here (%s): PyTorch's own is", error)
        return False
    return torch.allclose(found, F.linear(x, weight, bias) @ weight, rtol=1e-4, atol=1e-4)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _OneDnnLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return _product(grad, weight.t(), None), None, None
