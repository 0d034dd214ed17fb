"""A linear model of a case inside another model, and products of two of its modalities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor, nn


class _Part(nn.Module):
    """What one modality adds, ``weight (x - mean)``."""

    weight: Tensor
    mean: Tensor

    def __init__(self, num_tasks: int, output_dim: int, width: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(num_tasks, output_dim, width))
        self.register_buffer("mean", torch.zeros(width))


class _Product(nn.Module):
    """What two modalities add together, ``weight ((first . a) (second . b) - mean)``."""

    first: Tensor
    second: Tensor
    mean: Tensor
    weight: Tensor

    def __init__(self, num_tasks: int, output_dim: int, widths: tuple[int, int]) -> None:
        super().__init__()
        self.register_buffer("first", torch.zeros(num_tasks, widths[0]))
        self.register_buffer("second", torch.zeros(num_tasks, widths[1]))
        self.register_buffer("mean", torch.zeros(num_tasks, 1))
        self.register_buffer("weight", torch.zeros(num_tasks, output_dim))


class LinearReadout(nn.Module):
    """``bias + sum over the modalities of weight (x - mean)`` for every task, and a product of each two of them.

    Fitted in closed form before the training (:mod:`utils.training.linear_start`), zero until then, and not trained:
    buffers, so that it is saved with what is. A modality that a case lacks adds nothing, nor does a product with it.

    Args:
        widths: by modality, how many numbers it has.
        num_tasks: ``T``.
        output_dim: ``O``.
        products: of any two modalities, of one direction each.
    """

    bias: Tensor

    def __init__(
        self, widths: Mapping[str, int], num_tasks: int, output_dim: int, products: bool = False
    ) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({name: _Part(num_tasks, output_dim, n) for name, n in widths.items()})
        self.pairs = {product_name(*pair): pair for pair in combinations(widths, 2)} if products else {}
        self.products = nn.ModuleDict(
            {
                name: _Product(num_tasks, output_dim, (widths[a], widths[b]))
                for name, (a, b) in self.pairs.items()
            }
        )
        self.register_buffer("bias", torch.zeros(num_tasks, output_dim))

    def forward(self, vectors: Mapping[str, Tensor], tasks: Sequence[int]) -> Tensor:
        """``{modality: [d]} -> [len(tasks), O]``."""
        rows = list(tasks)
        out, centred = self.bias[rows], {}
        for name, vector in vectors.items():
            part = self.parts[name]
            centred[name] = vector.to(part.mean.dtype) - part.mean
            out = out + part.weight[rows] @ centred[name]
        for name, (a, b) in self.pairs.items():
            if a in centred and b in centred:
                product = self.products[name]
                along = (product.first[rows] @ centred[a]) * (product.second[rows] @ centred[b])  # [T]
                out = out + product.weight[rows] * (along.unsqueeze(1) - product.mean[rows])
        return out


def product_name(first: str, second: str) -> str:
    """Of the product of two modalities."""
    return f"{first} x {second}"
