"""Frozen modules: their linear layers pass gradients on without having any, by fewer and faster kernels."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

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
    of its other precisions; so this layer calls oneDNN itself. Under autocast PyTorch would cast frozen weights
    again at every use; here their copy is kept.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``[..., D_in] -> [..., D_out]``; differentiable once with respect to ``x``."""
        return joined_linear(x, (self,))

    def update(self, x: Tensor) -> Tensor | None:
        """What adaptation adds to the output (see :mod:`models.lora`); nothing here."""
        return None


def joined_linear(x: Tensor, layers: Sequence[nn.Linear]) -> Tensor:
    """What several layers make of the same input, side by side, by one product.

    The layers all have a bias or none has. Frozen ones share a copy of their weights.

    Args:
        x: ``[..., D_in]``.
        layers: linear layers of ``D_in`` inputs.

    Returns:
        ``[..., sum of D_out]``; differentiable once with respect to ``x`` where the layers are frozen.
    """
    out = _joined_product(x, layers)
    updates = [layer.update(x) if isinstance(layer, FrozenLinear) else None for layer in layers]
    if all(update is None for update in updates):
        return out
    # Layers without an update add zeros to their part of the output.
    shape, pairs = x.shape[:-1], zip(layers, updates, strict=True)
    parts = [out.new_zeros(*shape, lay.out_features) if u is None else u for lay, u in pairs]
    return out + torch.cat(parts, dim=-1)


def _joined_product(x: Tensor, layers: Sequence[nn.Linear]) -> Tensor:
    device, first = x.device.type, layers[0].weight
    frozen = not any(layer.weight.requires_grad for layer in layers) and first.dtype == torch.float32
    if torch.compiler.is_compiling() or not frozen:
        return F.linear(x, *_join(layers))
    if torch.is_autocast_enabled(device) and x.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
        return F.linear(x.to(dtype), *_kept(layers, dtype))
    weight, bias = _join(layers) if len(layers) == 1 else _kept(layers, first.dtype)
    if device == "cpu" and x.dtype == torch.float32 and has_onednn():
        return _OneDnnLinear.apply(x, weight, bias)
    return F.linear(x, weight, bias)


def _join(layers: Sequence[nn.Linear]) -> tuple[Tensor, Tensor | None]:
    if len(layers) == 1:
        return layers[0].weight, layers[0].bias
    weight = torch.cat([layer.weight for layer in layers])
    return weight, None if layers[0].bias is None else torch.cat([layer.bias for layer in layers])


def _kept(layers: Sequence[nn.Linear], dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """Joined weights and biases of frozen layers in another precision, made once.

    They are made anew where a parameter has been written, moved or replaced since.
    """
    parameters = [p for layer in layers for p in (layer.weight, layer.bias) if p is not None]
    source = [(p.data_ptr(), p._version) for p in parameters]
    copies = layers[0].__dict__.setdefault("_copies", {})
    kept = copies.get(dtype)
    if kept is None or kept[0] != source:
        with torch.inference_mode(False), torch.no_grad():
            joined = tuple(None if t is None else t.to(dtype) for t in _join(layers))
        # The parameters' memory is held on to, so that no other can get its address.
        kept = copies[dtype] = (source, joined, [p.detach() for p in parameters])
    return kept[1]


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
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return _product(grad, weight.t(), None), None, None
