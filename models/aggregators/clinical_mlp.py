"""Clinical MLP: the clinical encoder of ModalTune on its own."""

from __future__ import annotations

from torch import Tensor, nn


class ClinicalMLP(nn.Module):
    """``Linear -> ReLU -> Linear -> LayerNorm`` over the clinical numbers of a patient.

    Args:
        num_features: how many numbers there are.
        dim: width of the result.
    """

    def __init__(self, num_features: int = 5, dim: int = 256) -> None:
        super().__init__()
        self.output_dim = dim
        self.net = nn.Sequential(
            nn.Linear(num_features, dim // 2), nn.ReLU(), nn.Linear(dim // 2, dim), nn.LayerNorm(dim)
        )

    def forward(self, clinical: Tensor) -> Tensor:
        """``[5] -> [O]``."""
        return self.net(clinical)
