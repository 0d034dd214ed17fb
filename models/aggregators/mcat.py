"""MCAT (Chen et al., ICCV 2021): functional gene groups attend to patches, two pooled branches are fused."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.genomic_utils.gene_mixer import PathwayNetworks
from models.layers.gated_attention import GatedAttention


class TokenPooling(nn.Module):
    """Two post-norm transformer layers, gated attention pooling and ``Linear -> ReLU``.

    The layers start from the same weights, as in the original: its encoder copies one layer.
    """

    def __init__(self, dim: int, heads: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(dim, heads, feed_forward, dropout)
        self.transformer = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)
        self.attention = GatedAttention(dim, dim, dropout)
        self.rho = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Dropout(dropout))

    def forward(self, tokens: Tensor) -> Tensor:
        """``[n, D] -> [D]``."""
        return self.rho(self.attention(self.transformer(tokens)))


class MCAT(nn.Module):
    """Genomic-guided co-attention over all patches.

    Args:
        feature_dim: width of the patch features.
        groups: for each functional group, positions of its genes in the gene vector.
        dim: of patches, groups and the result.
        heads: of the transformers; the co-attention has one.
        dropout: of every part but the co-attention and the fusion, which have none.

    Raises:
        ValueError: a group is empty.
    """

    def __init__(
        self,
        feature_dim: int,
        groups: Sequence[Sequence[int]],
        dim: int = 256,
        heads: int = 8,
        dropout: float = 0.25,
    ) -> None:
        super().__init__()
        self.output_dim = dim
        self.patch = nn.Sequential(nn.Linear(feature_dim, dim), nn.ReLU(), nn.Dropout(dropout))
        self.gene_networks = PathwayNetworks(groups, dim, dropout, init="linear")
        self.coattention = nn.MultiheadAttention(dim, 1)
        self.image = TokenPooling(dim, heads, 2 * dim, dropout)
        self.genes = TokenPooling(dim, heads, 2 * dim, dropout)
        self.fusion = nn.Sequential(nn.Linear(2 * dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU())

    def forward(self, features: Tensor, genes: Tensor) -> Tensor:
        """``[L, D], [n_genes] -> [O]``."""
        groups = self.gene_networks(genes, 1)[0]  # [groups, dim]
        patches = self.patch(features)
        image, _ = self.coattention(groups, patches, patches, need_weights=False)
        return self.fusion(torch.cat([self.image(image), self.genes(groups)]))
