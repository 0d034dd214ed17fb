"""Trainable weights in half precision, cast together.

Under autocast every weight of a linear layer is cast before its product, and its gradient is cast back: two small
kernels for each weight and step. Cast together, all of them take a few. The numbers are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

# Layers whose parameters enter products only, so that autocast would cast them wherever they are used.
LAYERS = (nn.Linear, nn.Conv1d, nn.MultiheadAttention)


@contextmanager
def cast_together(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Puts copies in ``dtype`` into the layers of ``model`` whose weights can be cast together.

    These are the ``LAYERS`` inside modules that say so by a true attribute ``casts_weights_together`` (nothing of
    such a module may run with autocast switched off). Compiled modules are left alone: their casts are fused.
    Gradients of the copies arrive at the weights, so that the backward pass may follow inside or outside; nothing
    may write weights or ask for their names inside.
    """
    slots = list(_slots(model))
    if not slots:
        yield
        return
    weights = [layer._parameters[name] for layer, name in slots]
    copies = _Cast.apply(dtype, *weights)
    try:
        for (layer, name), copy in zip(slots, copies, strict=True):
            layer._parameters[name] = copy
        yield
    finally:
        for (layer, name), weight in zip(slots, weights, strict=True):
            layer._parameters[name] = weight


def _slots(module: nn.Module, inside: bool = False) -> Iterator[tuple[nn.Module, str]]:
    """Layers and the names of their trainable float32 parameters."""
    if module._compiled_call_impl is not None:
        return
    inside = inside or getattr(module, "casts_weights_together", False)
    # A subclass may use its weights otherwise. The output layer of an attention is a subclass without code.
    if inside and (
        type(module) in LAYERS or type(module) is nn.modules.linear.NonDynamicallyQuantizableLinear
    ):
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.requires_grad and parameter.dtype == torch.float32:
                yield module, name
    for child in module.children():
        yield from _slots(child, inside)


class _Cast(torch.autograd.Function):
    """Copies of tensors in another precision; gradients come back in that of the tensors."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.dtypes = [tensor.dtype for tensor in tensors]
        return _cast(tensors, [dtype] * len(tensors))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        there = {index: grad for index, grad in enumerate(grads) if grad is not None}
        cast = dict(zip(there, _cast(list(there.values()), [ctx.dtypes[i] for i in there]), strict=True))
        return None, *(cast.get(index) for index in range(len(grads)))


def _cast(tensors: Sequence[Tensor], dtypes: Sequence[torch.dtype]) -> tuple[Tensor, ...]:
    copies = [torch.empty_like(tensor, dtype=dtype) for tensor, dtype in zip(tensors, dtypes, strict=True)]
    torch._foreach_copy_(copies, list(tensors))
    return tuple(copies)
