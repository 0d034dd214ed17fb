"""ABMIL: gated attention over patches (Ilse et al., ICML 2018), in the form of the MCAT code family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from models.aggregators.registry import DataSpec, register
from models.aggregators.single_vector import LABEL_OBJECTIVES, SingleVector, built
from models.layers.gated_attention import GatedAttention


class ABMIL(nn.Module):
    """``Linear -> ReLU`` for every patch, gated attention pooling, ``Linear -> ReLU``.

    Args:
        feature_dim: width of the patch features.
        hidden_dim: of a patch, which is what is pooled.
        attention_dim: of the gate.
        output_dim: of the result.
        dropout: behind every non-linearity, those of the gate included.
    """

    def __init__(
        self,
        feature_dim: int,
        hidden_dim: int = 512,
        attention_dim: int = 256,
        output_dim: int = 256,
        dropout: float = 0.25,
    ) -> None:
        super().__init__()
        self.feature_dim, self.output_dim = feature_dim, output_dim
        self.patch = nn.Sequential(nn.Linear(feature_dim, hidden_dim), nn.ReLU(), nn.Dropout(dropout))
        self.attention = GatedAttention(hidden_dim, attention_dim, dropout)
        self.rho = nn.Sequential(nn.Linear(hidden_dim, output_dim), nn.ReLU(), nn.Dropout(dropout))

    def forward(self, features: Tensor) -> Tensor:
        """``[L, D] -> [O]``."""
        return self.rho(self.attention(self.patch(features)))


@register("abmil", modalities=[], objectives=LABEL_OBJECTIVES)
def _build(config: Mapping[str, Any], spec: DataSpec) -> SingleVector:
    """``--mil_name abmil``: patches only."""
    network = built(ABMIL, config, "abmil")
    return SingleVector(network, ["patches"], spec.num_tasks)
