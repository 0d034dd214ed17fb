"""Learning rates: linear warm-up by epochs, then cosine to zero; and those of the original recipes."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR
from warmup_scheduler import GradualWarmupScheduler

logger = logging.getLogger(__name__)

WARMUP_EPOCHS = 10
WARMUP_FACTOR = 20
# At the hand-over the library's cosine exceeds the peak: by 0.6 % in a run of 30 epochs, as published,
# but by 100 % in a run of three.
_OVERSHOOT = 1.01
_LEAST = 1e-6  # of Prov-GigaPath
# (epochs done, with a fraction; their number; peak) -> learning rate.
Curve = Callable[[float, int, float], float]


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

    def before_case(self, epoch: int, done: int, rounds: int) -> None:
        """The learning rate stays as it is within an epoch."""

    def step(self) -> None:
        """Moves to the next epoch."""
        self._step()

    @property
    def lr(self) -> float:
        """Current learning rate, of parameters without a scale of their own."""
        group = self._optimizer.param_groups[0]
        return group["lr"] / group.get("scale", 1.0)


class WithinEpochs:
    """A learning rate that may change with every case.

    Args:
        optimizer: its learning rate is set.
        lr: peak learning rate.
        num_epochs: length of the run.
        curve: see :data:`Curve`.
        gc: the rate changes where a step begins, which is every ``gc`` cases.
    """

    def __init__(self, optimizer: Optimizer, lr: float, num_epochs: int, curve: Curve, gc: int = 1) -> None:
        self._optimizer, self._peak, self._num_epochs = optimizer, lr, num_epochs
        self._curve, self._gc = curve, gc
        self.lr = lr

    def before_case(self, epoch: int, done: int, rounds: int) -> None:
        """Sets the rate for a case.

        Args:
            epoch: the epoch at hand.
            done: its cases (of every process) that are done.
            rounds: its cases.
        """
        position = epoch + (done - done % self._gc) / rounds
        self.lr = self._curve(position, self._num_epochs, self._peak)
        for group in self._optimizer.param_groups:
            group["lr"] = group.get("scale", 1.0) * self.lr

    def step(self) -> None:
        """Nothing: the next case brings its rate."""


Schedule = WarmupCosine | WithinEpochs


def _constant(position: float, num_epochs: int, lr: float) -> float:
    return lr


def _survpath(position: float, num_epochs: int, lr: float) -> float:
    """From 0 to the peak in the first epoch, then cosine to 0."""
    if position < 1:
        return lr * position
    return lr * 0.5 * (1 + math.cos(math.pi * (position - 1) / max(num_epochs - 1, 1)))


def _prov_gigapath(position: float, num_epochs: int, lr: float) -> float:
    """The same, but to a millionth."""
    if position < 1:
        return lr * position
    fall = 1 + math.cos(math.pi * (position - 1) / max(num_epochs - 1, 1))
    return _LEAST + (lr - _LEAST) / 2 * fall


_CURVES: dict[str, Curve] = {"constant": _constant, "cases": _survpath, "steps": _prov_gigapath}


def build_schedule(
    kind: str, optimizer: Optimizer, lr: float, num_epochs: int, gc: int, epoch: int
) -> Schedule:
    """The schedule of a recipe.

    Args:
        kind: ``epochs`` is :class:`WarmupCosine`; ``constant``; ``cases`` is SurvPath's and changes with every case;
            ``steps`` is that of Prov-GigaPath and changes with every step.
        optimizer: see :class:`WarmupCosine`.
        lr: peak learning rate.
        num_epochs: length of the run.
        gc: cases of a step.
        epoch: epochs already done.
    """
    if kind == "epochs":
        return WarmupCosine(optimizer, lr, num_epochs, epoch)
    return WithinEpochs(optimizer, lr, num_epochs, _CURVES[kind], gc if kind == "steps" else 1)
