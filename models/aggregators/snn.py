"""Self-normalising network over all genes (the S-MLP of the paper's tables)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from models.aggregators.registry import DataSpec, register
from models.aggregators.single_vector import LABEL_OBJECTIVES, SingleVector, built, number_of_genes
from models.layers.snn import init_self_normalising, snn


class GeneSNN(nn.Module):
    """Blocks of ``Linear -> ELU -> AlphaDropout`` with the initialisation that keeps their variance.

    Args:
        num_genes: length of the gene vector.
        widths: of the blocks.
        dropout: of every block.
    """

    def __init__(self, num_genes: int, widths: tuple[int, ...] = (256, 256), dropout: float = 0.25) -> None:
        super().__init__()
        self.output_dim = widths[-1]
        self.fc_omic = snn([num_genes, *widths], dropout)
        self.apply(init_self_normalising)

    def init_head(self, head: nn.Linear) -> None:
        """The original initialises the layer behind the network alike."""
        init_self_normalising(head)

    def forward(self, genes: Tensor) -> Tensor:
        """``[n_genes] -> [O]``."""
        return self.fc_omic(genes)


@register("snn", modalities=["genes"], objectives=LABEL_OBJECTIVES, patches=False)
def _build(config: Mapping[str, Any], spec: DataSpec) -> SingleVector:
    """``--mil_name snn``: genes only."""
    network = built(GeneSNN, config, "snn", num_genes=number_of_genes(spec.structures))
    return SingleVector(network, ["genes"], spec.num_tasks)
