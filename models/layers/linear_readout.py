"""A linear model of a case inside another model: what the modalities say without any interaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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


class LinearReadout(nn.Module):
    """``bias + sum over the modalities of weight (x - mean)`` for every task.

    Fitted in closed form before the training (:mod:`utils.training.linear_start`), zero until then, and not trained:
    buffers, so that it is saved with what is. A modality that a case lacks adds nothing.

    Args:
        widths: by modality, how many numbers it has.
        num_tasks: ``T``.
        output_dim: ``O``.
    """

    bias: Tensor

    def __init__(self, widths: Mapping[str, int], num_tasks: int, output_dim: int) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({name: _Part(num_tasks, output_dim, n) for name, n in widths.items()})
        self.register_buffer("bias", torch.zeros(num_tasks, output_dim))

    def forward(self, vectors: Mapping[str, Tensor], tasks: Sequence[int]) -> Tensor:
        """``{modality: [d]} -> [len(tasks), O]``."""
        rows = list(tasks)
        out = self.bias[rows]
        for name, vector in vectors.items():
            part = self.parts[name]
            out = out + part.weight[rows] @ (vector.to(part.mean.dtype) - part.mean)
        return out
