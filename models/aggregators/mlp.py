"""MLP over all genes: the plain gene-only baseline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from models.aggregators.registry import DataSpec, register
from models.aggregators.single_vector import LABEL_OBJECTIVES, SingleVector, built, number_of_genes


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


@register("mlp", modalities=["genes"], objectives=LABEL_OBJECTIVES, patches=False)
def _build(config: Mapping[str, Any], spec: DataSpec) -> SingleVector:
    """``--mil_name mlp``: genes only."""
    network = built(GeneMLP, config, "mlp", num_genes=number_of_genes(spec.structures))
    return SingleVector(network, ["genes"], spec.num_tasks)
