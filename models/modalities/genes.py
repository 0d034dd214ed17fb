"""RNA expression as tokens."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from models.aggregators.registry import DataSpec
from models.genomic_utils.gene_mixer import GeneMixer
from models.modalities.base import ModalityEncoder


class GeneEncoder(ModalityEncoder):
    """RNA expression by pathways (see :class:`GeneMixer`)."""

    name, word = "genes", "gene"

    def __init__(self, embed_dim: int, pathways: Sequence[Sequence[int]], **config: float) -> None:
        super().__init__()
        self.network = GeneMixer(pathways, embed_dim, **config)
        self.num_tokens = self.network.num_tokens

    @classmethod
    def from_spec(cls, embed_dim: int, spec: DataSpec, **config: float) -> GeneEncoder:
        return cls(embed_dim, spec.pathways, **config)

    def encode(self, data: Tensor, num_tasks: int, case_id: str) -> Tensor:
        if self.training:
            return self.network(data, num_tasks)
        return self.network(data).expand(num_tasks, -1, -1)  # without dropout all copies agree
