"""Gene Mixer: the gene encoder of ModalTune on its own."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from models.genomic_utils.gene_mixer import GeneMixer


class GeneMixerModel(nn.Module):
    """The mean of the gene tokens, normalised.

    Args:
        pathways: for each pathway, positions of its genes in the gene vector.
        dim: width of the tokens and of the result.
        config: of :class:`models.genomic_utils.gene_mixer.GeneMixer`.
    """

    def __init__(self, pathways: Sequence[Sequence[int]], dim: int = 768, **config: float) -> None:
        super().__init__()
        self.output_dim = dim
        self.gene_encoder = GeneMixer(pathways, dim, **config)
        self.final_norm = nn.LayerNorm(dim)

    def forward(self, genes: Tensor) -> Tensor:
        """``[n_genes] -> [O]``."""
        return self.final_norm(self.gene_encoder(genes)[0].mean(dim=0))
