"""The optimiser of a training: one group of parameters for every learning rate and weight decay."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from utils.configuration.run_config import TrainingConfig
from utils.training.recipes import COMMON, Recipe

# Of Lookahead: steps between two looks back, and how far the slow weights follow.
_LOOK_EVERY, _FOLLOW = 6, 0.5


def parameter_groups(
    model: nn.Module, others: Sequence[nn.Module], weight_decay: float, decay_vectors: bool = True
) -> list[dict]:
    """What is trained, by learning rate and decay.

    A model with a method ``learning_rate_scale(name)`` has its layers learn at different rates, and its
    one-dimensional parameters are not decayed, as the makers of slide encoders tune them; ``decay_vectors=False`` is
    the latter for every model. Everything else is one group.
    """
    scale = getattr(model, "learning_rate_scale", None)
    named = [("model", *item) for item in model.named_parameters()]
    named += [("other", *item) for other in others for item in other.named_parameters()]
    groups: dict[tuple[float, float], dict] = {}
    for kind, name, parameter in named:
        if not parameter.requires_grad:
            continue
        factor = scale(name) if scale is not None and kind == "model" else 1.0
        spared = parameter.ndim == 1 and (scale is not None or not decay_vectors)
        decay = 0.0 if spared else weight_decay
        group = groups.setdefault((factor, decay), {"params": [], "scale": factor, "weight_decay": decay})
        group["params"].append(parameter)
    return list(groups.values())


def build_optimizer(
    model: nn.Module,
    others: Sequence[nn.Module],
    options: TrainingConfig,
    fused: bool = False,
    recipe: Recipe = COMMON,
) -> torch.optim.Optimizer:
    """The optimiser of a recipe over :func:`parameter_groups`; ``fused`` where the optimiser knows how.

    Else Adam takes its steps by one call for all parameters, which gives the numbers of one call for each.
    """
    groups = parameter_groups(model, others, options.weight_decay, recipe.decay_vectors)
    betas = (options.beta1, 0.999)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=options.lr, betas=betas, fused=fused, foreach=not fused)
    if recipe.optimizer == "adam":
        return torch.optim.Adam(groups, lr=options.lr, betas=betas, fused=fused, foreach=not fused)
    rectified = torch.optim.RAdam(groups, lr=options.lr, betas=betas, decoupled_weight_decay=True)
    if recipe.optimizer == "radam":
        return rectified
    from timm.optim.lookahead import Lookahead  # slow to import, and needed by one recipe alone

    return Lookahead(rectified, alpha=_FOLLOW, k=_LOOK_EVERY)
