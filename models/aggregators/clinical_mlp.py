"""Clinical MLP: the clinical encoder of ModalTune on its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from models.aggregators.registry import DataSpec, register
from models.aggregators.single_vector import LABEL_OBJECTIVES, SingleVector, built


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


@register("clinical_mlp", modalities=["clinical"], objectives=LABEL_OBJECTIVES, patches=False)
def _build(config: Mapping[str, Any], spec: DataSpec) -> SingleVector:
    """``--mil_name clinical_mlp``: clinical features only."""
    network = built(ClinicalMLP, config, "clinical_mlp")
    return SingleVector(network, ["clinical"], spec.num_tasks)
