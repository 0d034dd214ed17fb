"""Gene Mixer: the gene encoder of ModalTune on its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from models.aggregators.registry import DataSpec, register
from models.aggregators.single_vector import LABEL_OBJECTIVES, SingleVector, built, needed
from models.configuration import construct
from models.genomic_utils.gene_mixer import GeneMixer


class GeneMixerModel(nn.Module):
    """The mean of the gene tokens, normalised.

    Args:
        pathways: for each pathway, positions of its genes in the gene vector.
        dim: width of the tokens and of the result.
        config: of :class:`models.genomic_utils.gene_mixer.GeneMixer`.
    """

    def __init__(self, pathways: Sequence[Sequence[int]], dim: int = 768, **config: Any) -> None:
        super().__init__()
        self.output_dim = dim
        self.gene_encoder = construct(
            GeneMixer, config, "model config of gene_mixer", pathways=pathways, out_dim=dim
        )
        self.final_norm = nn.LayerNorm(dim)

    def forward(self, genes: Tensor) -> Tensor:
        """``[n_genes] -> [O]``."""
        return self.final_norm(self.gene_encoder(genes)[0].mean(dim=0))


@register("gene_mixer", modalities=["genes"], objectives=LABEL_OBJECTIVES, patches=False)
def _build(config: Mapping[str, Any], spec: DataSpec) -> SingleVector:
    """``--mil_name gene_mixer``: genes only."""
    pathways = needed(spec.structures, "genes")["indices"]
    network = built(GeneMixerModel, config, "gene_mixer", pathways=pathways)
    return SingleVector(network, ["genes"], spec.num_tasks)
