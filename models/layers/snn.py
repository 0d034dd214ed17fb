"""Self-normalising networks of gene expression: ``Linear -> ELU -> AlphaDropout`` blocks."""

from __future__ import annotations

import math
from itertools import pairwise

from torch import nn


def snn(widths: list[int], dropout: float = 0.25) -> nn.Sequential:
    """One block from every width to the next; linear layers keep PyTorch's initialisation."""
    return nn.Sequential(
        *(
            nn.Sequential(nn.Linear(before, after), nn.ELU(), nn.AlphaDropout(dropout))
            for before, after in pairwise(widths)
        )
    )


def init_self_normalising(module: nn.Module) -> None:
    """For ``module.apply``: normal weights of variance ``1 / fan_in`` and zero biases."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=1 / math.sqrt(module.in_features))
        nn.init.zeros_(module.bias)
