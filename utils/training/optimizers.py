"""The optimiser of a training: one group of parameters for every learning rate and weight decay."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from utils.run_config import TrainingConfig


def parameter_groups(model: nn.Module, others: Sequence[nn.Module], options: TrainingConfig) -> list[dict]:
    """What is trained, by learning rate.

    A model with a method ``learning_rate_scale(name)`` has its layers learn at different rates, and its
    one-dimensional parameters are not decayed, as the makers of slide encoders tune them. Everything else is
    one group.
    """
    scale = getattr(model, "learning_rate_scale", None)
    named = [("model", *item) for item in model.named_parameters()]
    named += [("other", *item) for other in others for item in other.named_parameters()]
    trained = [(kind, name, p) for kind, name, p in named if p.requires_grad]
    if scale is None:
        return [{"params": [p for _, _, p in trained], "scale": 1.0}]
    groups: dict[tuple[float, float], dict] = {}
    for kind, name, parameter in trained:
        factor = scale(name) if kind == "model" else 1.0
        decay = 0.0 if parameter.ndim == 1 else options.weight_decay
        group = groups.setdefault((factor, decay), {"params": [], "scale": factor, "weight_decay": decay})
        group["params"].append(parameter)
    return list(groups.values())


def build_optimizer(
    model: nn.Module, others: Sequence[nn.Module], options: TrainingConfig, fused: bool = False
) -> torch.optim.Optimizer:
    """AdamW over :func:`parameter_groups`."""
    return torch.optim.AdamW(
        parameter_groups(model, others, options),
        lr=options.lr,
        weight_decay=options.weight_decay,
        betas=(options.beta1, 0.999),
        fused=fused,
    )
