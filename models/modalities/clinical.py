"""Clinical features as a token."""

from __future__ import annotations

from torch import Tensor, nn

from models.aggregators.registry import DataSpec
from models.modalities.base import ModalityEncoder
from models.vitadapter.interaction import init_linear


class ClinicalEncoder(ModalityEncoder):
    """Age, stage, T, N and M as one token: ``Linear -> ReLU -> Linear -> LayerNorm``."""

    name, word = "clinical", "clinical"
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

    @classmethod
    def from_spec(cls, embed_dim: int, spec: DataSpec, **config: int) -> ClinicalEncoder:
        return cls(embed_dim, **config)

    def encode(self, data: Tensor, num_tasks: int, case_id: str) -> Tensor:
        return self.network(data).expand(num_tasks, 1, -1)
