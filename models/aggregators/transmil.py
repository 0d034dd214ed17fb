"""TransMIL (Shao et al., NeurIPS 2021): two Nystrom attentions around a convolutional position encoding."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from models.aggregators.registry import DataSpec, register
from models.aggregators.single_vector import LABEL_OBJECTIVES, SingleVector, built
from models.layers.nystrom import NystromAttention


class PositionEncoding(nn.Module):
    """Depth-wise convolutions over the patches as a square image (PPEG)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=dim) for kernel in (7, 5, 3)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """CLS and the rows of a square image ``[1 + q * q, D]``, in row-major order; CLS stays as it is."""
        side = math.isqrt(len(tokens) - 1)
        image = tokens[1:].T.unflatten(1, (side, side)).unsqueeze(0)
        image = image + sum(convolution(image) for convolution in self.convolutions)
        return torch.cat([tokens[:1], image.squeeze(0).flatten(1).T])


class TransMIL(nn.Module):
    """Patches in the order of their file, filled up to a square; the result is the normalised CLS token.

    Args:
        feature_dim: width of the patch features.
        dim: of the tokens and of the result.
        heads: of both attentions.
        landmarks: of both attentions.
        dropout: on the output of both attentions.
    """

    def __init__(
        self, feature_dim: int, dim: int = 512, heads: int = 8, landmarks: int = 256, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.feature_dim, self.output_dim = feature_dim, dim
        self.patch = nn.Sequential(nn.Linear(feature_dim, dim), nn.ReLU())
        self.cls_token = nn.Parameter(torch.randn(1, dim))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.attentions = nn.ModuleList(
            NystromAttention(dim, heads, landmarks, dropout=dropout) for _ in range(2)
        )
        self.positions = PositionEncoding(dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, features: Tensor) -> Tensor:
        """``[L, D] -> [O]``."""
        patches = self.patch(features)
        side = math.isqrt(len(patches) - 1) + 1  # of the smallest square that holds them
        patches = torch.cat([patches, patches[: side * side - len(patches)]])
        tokens = torch.cat([self.cls_token.to(patches.dtype), patches])
        tokens = tokens + self.attentions[0](self.norms[0](tokens))
        tokens = self.positions(tokens)
        tokens = tokens + self.attentions[1](self.norms[1](tokens))
        return self.norm(tokens[0])


@register("transmil", modalities=[], objectives=LABEL_OBJECTIVES)
def _build(config: Mapping[str, Any], spec: DataSpec) -> SingleVector:
    """``--mil_name transmil``: patches only."""
    network = built(TransMIL, config, "transmil")
    return SingleVector(network, ["patches"], spec.num_tasks)
