"""Modality encoders: how the data of a case, other than its slides, become tokens.

A further modality is one class here (or in a file of its own) and one line in ``MODALITIES``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from models.genomic_utils.gene_mixer import GeneMixer
from models.vitadapter.interaction import init_linear

if TYPE_CHECKING:
    from data_utils.case import Case


class ModalityEncoder(nn.Module, ABC):
    """Turns one modality of a case into ``num_tokens`` tokens of the slide encoder's width."""

    num_tokens: int

    @abstractmethod
    def forward(self, case: Case, num_tasks: int) -> Tensor:
        """``[T, n, E]``; in training mode every task copy has its own dropout masks.

        Raises:
            ValueError: the case lacks the modality; the message names the case.
        """


class GeneEncoder(ModalityEncoder):
    """RNA expression by pathways (see :class:`GeneMixer`)."""

    def __init__(self, embed_dim: int, pathways: Sequence[Sequence[int]], **config: float) -> None:
        super().__init__()
        self.network = GeneMixer(pathways, embed_dim, **config)
        self.num_tokens = self.network.num_tokens

    def forward(self, case: Case, num_tasks: int) -> Tensor:
        if case.genes is None:
            raise ValueError(f"case {case.case_id} has no genes, which this model needs")
        if self.training:
            return self.network(case.genes, num_tasks)
        return self.network(case.genes).expand(num_tasks, -1, -1)  # without dropout all copies agree


class ClinicalEncoder(ModalityEncoder):
    """Age, stage, T, N and M as one token: ``Linear -> ReLU -> Linear -> LayerNorm``."""

    num_tokens = 1

    def __init__(self, embed_dim: int, in_dim: int = 5) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Linear(in_dim, embed_dim // 2),
            nn.ReLU(),
            nn.Linear(embed_dim // 2, embed_dim),
            nn.LayerNorm(embed_dim),
        )
        self.apply(init_linear)

    def forward(self, case: Case, num_tasks: int) -> Tensor:
        if case.clinical is None:
            raise ValueError(f"case {case.case_id} has no clinical features, which this model needs")
        return self.network(case.clinical).expand(num_tasks, 1, -1)


MODALITIES: dict[str, type[ModalityEncoder]] = {"genes": GeneEncoder, "clinical": ClinicalEncoder}
