"""MLP over all genes: the plain gene-only baseline."""

from __future__ import annotations

from torch import Tensor, nn


class GeneMLP(nn.Module):
    """``Linear -> ReLU -> Dropout``, twice.

    Args:
        num_genes: length of the gene vector.
        width: of both layers.
        dropout: behind both.
    """

    def __init__(self, num_genes: int, width: int = 256, dropout: float = 0.25) -> None:
        super().__init__()
        self.output_dim = width
        self.net = nn.Sequential(
            nn.Linear(num_genes, width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Dropout(dropout),
        )

    def forward(self, genes: Tensor) -> Tensor:
        """``[n_genes] -> [O]``."""
        return self.net(genes)
