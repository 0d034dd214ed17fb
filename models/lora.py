"""Low-rank adaptation of frozen linear layers (Hu et al., ICLR 2022).

A layer computes ``W x + b + alpha / rank * B A x``. ``W`` and ``b`` keep their names and stay frozen, ``A`` and
``B`` train. ``B`` starts at zero, so a model starts as it was.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.frozen import FrozenLinear


@dataclass(frozen=True)
class LoRAConfig:
    """The section ``lora`` of a model config.

    Attributes:
        rank: of the update.
        alpha: the update is scaled by ``alpha / rank``.
        targets: the layers, each by the end of its name in the slide encoder, such as ``q_proj`` or ``attn.qkv``.
    """

    rank: int
    alpha: float
    targets: Sequence[str]

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"model config, lora: rank is {self.rank}, should be 1 or more")
        if not self.targets:
            raise ValueError("model config, lora: targets names no layer")


class LowRankLinear(FrozenLinear):
    """A frozen linear layer with a trainable low-rank update; see :func:`add_lora`."""

    lora_a: nn.Parameter  # [rank, D_in]
    lora_b: nn.Parameter  # [D_out, rank]
    lora_scale: float

    def update(self, x: Tensor) -> Tensor:
        """What the update adds to the output, ``[..., D_in] -> [..., D_out]``."""
        return self.lora_scale * F.linear(F.linear(x, self.lora_a), self.lora_b)

    def merged_weight(self) -> Tensor:
        """The weight of a plain linear layer that computes the same, ``[D_out, D_in]``."""
        return self.weight + self.lora_scale * self.lora_b @ self.lora_a


def add_lora(encoder: nn.Module, config: LoRAConfig) -> None:
    """Gives the linear layers of a frozen ``encoder`` that ``config.targets`` names a low-rank update.

    Raises:
        ValueError: a target names no linear layer; the message lists those there are.
    """
    layers = {name: layer for name, layer in encoder.named_modules() if type(layer) is FrozenLinear}
    for target in config.targets:
        chosen = [layer for name, layer in layers.items() if f".{name}".endswith(f".{target}")]
        if not chosen:
            known = sorted({".".join(name.split(".")[-2:]) for name in layers})
            raise ValueError(f"model config, lora: no linear layer is called {target!r}; there are {known}")
        for layer in chosen:
            _add(layer, config)


def _add(layer: nn.Linear, config: LoRAConfig) -> None:
    if isinstance(layer, LowRankLinear):
        raise ValueError("model config, lora: two targets name the same layer")
    layer.__class__ = LowRankLinear
    assert isinstance(layer, LowRankLinear)
    layer.lora_a = nn.Parameter(torch.empty(config.rank, layer.in_features))
    layer.lora_b = nn.Parameter(torch.zeros(layer.out_features, config.rank))
    layer.lora_scale = config.alpha / config.rank
    nn.init.kaiming_uniform_(layer.lora_a, a=math.sqrt(5))
