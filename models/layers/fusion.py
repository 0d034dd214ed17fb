"""Late fusion: two vectors side by side, then two layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.layers.snn import snn


class LateFusion(nn.Module):
    """An image network beside a self-normalising network over all genes: ``[image, genes] -> [O]``.

    Args:
        image: ``[L, D] -> [its output_dim]``, or whatever it takes instead of features.
        num_genes: length of the gene vector.
        dim: of the gene vector behind its network, and of the result.
        dropout: of the gene network; the fusion has none.
    """

    def __init__(self, image: nn.Module, num_genes: int, dim: int = 256, dropout: float = 0.25) -> None:
        super().__init__()
        self.output_dim = dim
        self.image = image
        self.feature_dim = getattr(image, "feature_dim", None)  # where the image network takes patches
        self.fc_omic = snn([num_genes, dim, dim], dropout)
        self.mm = nn.Sequential(
            nn.Linear(image.output_dim + dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU()
        )

    def forward(self, features: Tensor, genes: Tensor) -> Tensor:
        """Image features as ``image`` takes them and ``[n_genes] -> [O]``."""
        return self.mm(torch.cat([self.image(features), self.fc_omic(genes)]))
