"""Learning rate: linear warm-up, then cosine to zero."""

from __future__ import annotations

import logging
import warnings

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR
from warmup_scheduler import GradualWarmupScheduler

logger = logging.getLogger(__name__)

WARMUP_EPOCHS = 10
WARMUP_FACTOR = 20
# At the hand-over the library's cosine exceeds the peak: by 0.6 % in a run of 30 epochs, as published,
# but by 100 % in a run of three.
_OVERSHOOT = 1.01


class WarmupCosine:
    """From ``lr / 20`` to ``lr`` over ten epochs, then cosine to zero over the rest.

    The published run is too short for its own warm-up when told to train for few epochs, and ends at a
    learning rate that still rises. Here warm-up takes at most a third of the epochs.

    Args:
        optimizer: its learning rate is set; build it with the peak rate.
        lr: peak learning rate.
        num_epochs: length of the run.
        epoch: epochs already done. The library's own state cannot be restored (it keeps a stale
            optimiser), so the schedule is replayed up to this position.
    """

    def __init__(self, optimizer: Optimizer, lr: float, num_epochs: int, epoch: int = 0) -> None:
        warmup = max(1, min(WARMUP_EPOCHS, num_epochs // 3))
        if warmup < WARMUP_EPOCHS:
            logger.info("%d epochs: warm-up shortened from %d to %d", num_epochs, WARMUP_EPOCHS, warmup)
        for group in optimizer.param_groups:
            group["lr"] = group.get("scale", 1.0) * lr / WARMUP_FACTOR
            group.pop("initial_lr", None)
        cosine = CosineAnnealingLR(optimizer, max(1, num_epochs - warmup))
        self._scheduler = GradualWarmupScheduler(optimizer, WARMUP_FACTOR, warmup, cosine)
        self._optimizer = optimizer
        self._peak = lr
        for _ in range(epoch):
            self._step()

    def _step(self) -> None:
        with warnings.catch_warnings():
            # The library calls scheduler.step with an epoch and before optimizer.step; both are harmless.
            warnings.simplefilter("ignore")
            self._scheduler.step()
        for group in self._optimizer.param_groups:
            group["lr"] = min(group["lr"], group.get("scale", 1.0) * self._peak * _OVERSHOOT)

    def step(self) -> None:
        """Moves to the next epoch."""
        self._step()

    @property
    def lr(self) -> float:
        """Current learning rate, of parameters without a scale of their own."""
        group = self._optimizer.param_groups[0]
        return group["lr"] / group.get("scale", 1.0)
