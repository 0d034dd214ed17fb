"""What is explained: a differentiable number made from the output of one task token."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.multiclass import OneVsRestClassifier
from torch import Tensor

from utils.evaluation.probes import SubtypeProbe, SurvivalProbe
from utils.evaluation.zero_shot import Candidates, early_and_late


@dataclass(frozen=True, eq=False)
class Target(ABC):
    """A number of an output.

    Attributes:
        name: on the command line and in file names, such as ``class_1``.
        title: in figures and reports.
        task: index of the task token whose output is read.
    """

    name: str
    title: str
    task: int

    @abstractmethod
    def __call__(self, output: Tensor) -> Tensor:
        """The number, a float64 scalar, from the output ``[O]``."""


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear probe as plain arrays: ``((output - mean) / scale) @ coef + intercept``.

    Attributes:
        coef: ``[O]`` or, with one row for every class, ``[K, O]``.
        intercept: a number or ``[K]``.
        mean, scale: ``[O]``; 0 and 1 where the probe takes outputs as they are.
    """

    coef: np.ndarray
    intercept: np.ndarray
    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def plain(cls, coef: np.ndarray, intercept: np.ndarray) -> Linear:
        """A probe of outputs as they are."""
        width = coef.shape[-1]
        return cls(coef, intercept, np.zeros(width), np.ones(width))

    def logits(self, output: Tensor) -> Tensor:
        """A scalar or ``[K]``, float64, from an output ``[O]``."""
        coef, intercept, mean, scale = (
            torch.as_tensor(a, dtype=torch.float64, device=output.device)
            for a in (self.coef, self.intercept, self.mean, self.scale)
        )
        return coef @ ((output.double() - mean) / scale) + intercept


@dataclass(frozen=True, eq=False)
class LinearTarget(Target):
    """The logit of a probe, such as the log-odds of a class or the risk of a Cox model."""

    probe: Linear

    def __call__(self, output: Tensor) -> Tensor:
        return self.probe.logits(output).reshape(())


@dataclass(frozen=True, eq=False)
class ProbabilityTarget(Target):
    """The probability of a class, with the logits ``[K]`` of every class against the others."""

    probe: Linear
    index: int

    def __call__(self, output: Tensor) -> Tensor:
        shares = torch.sigmoid(self.probe.logits(output))
        return shares[self.index] / shares.sum()


@dataclass(frozen=True, eq=False)
class SimilarityTarget(Target):
    """Cosine similarity to sentences: the greatest over ``near`` less the mean over ``far``.

    Attributes:
        near: unit vectors ``[k, O]``.
        far: unit vectors ``[m, O]``; there may be none.
        mean: the mean over ``near`` instead of the greatest.
    """

    near: np.ndarray
    far: np.ndarray | None = None
    mean: bool = False

    def __call__(self, output: Tensor) -> Tensor:
        unit = F.normalize(output.double(), dim=-1)
        near = torch.as_tensor(self.near, dtype=torch.float64, device=output.device) @ unit
        value = near.mean() if self.mean else near.max()
        if self.far is None:
            return value
        return value - (torch.as_tensor(self.far, dtype=torch.float64, device=output.device) @ unit).mean()


# ---------------------------------------------------------------------------- from what a run has
def class_logits(probe: SubtypeProbe, width: int) -> dict[int, Linear]:
    """The logit of every class against the others, by class, of outputs ``width`` wide.

    Raises:
        ValueError: the probe could not be fitted; the message says why.
    """
    model = probe.model
    if model is None:
        raise ValueError(f"no subtype to explain: {probe.reason}")
    if isinstance(model, OneVsRestClassifier):
        rows = {
            int(c): (e.coef_[0], e.intercept_[0])
            for c, e in zip(model.classes_, model.estimators_, strict=True)
        }
    else:
        negative, positive = (int(c) for c in model.classes_)
        coef, intercept = model.coef_[0], model.intercept_[0]
        rows = {negative: (-coef, -intercept), positive: (coef, intercept)}
    found = {c: Linear.plain(np.asarray(coef), np.asarray(b)) for c, (coef, b) in rows.items()}
    if any(linear.coef.shape != (width,) for linear in found.values()):
        raise ValueError(f"the subtype probe is of another width than the outputs ({width})")
    return found


def class_target(probe: SubtypeProbe, width: int, index: int, title: str, probability: bool) -> Target:
    """Log-odds or probability of a class.

    Raises:
        ValueError: the probe knows no such class.
    """
    logits = class_logits(probe, width)
    if index not in logits:
        raise ValueError(f"no class {index} to explain: the probe was fitted on the classes {sorted(logits)}")
    if not probability:
        return LinearTarget(f"class_{index}", f"log-odds of {title}", probe.task, logits[index])
    coef, intercept = (np.stack([getattr(logits[c], name) for c in logits]) for name in ("coef", "intercept"))
    order = list(logits).index(index)
    return ProbabilityTarget(
        f"probability_{index}", f"probability of {title}", probe.task, Linear.plain(coef, intercept), order
    )


def risk_target(probe: SurvivalProbe, width: int) -> LinearTarget:
    """The log partial hazard of the Cox probe; higher dies earlier.

    Raises:
        ValueError: the probe could not be fitted; the message says why.
    """
    if probe.model is None:
        raise ValueError(f"no risk to explain: {probe.reason}")
    coef, mean = np.zeros(width), np.zeros(width)
    coef[probe.varying] = probe.model.params_.to_numpy()
    mean[probe.varying] = np.asarray(probe.model._norm_mean)
    return LinearTarget("risk", "risk", probe.task, Linear(coef, np.zeros(()), mean, np.ones(width)))


def zero_shot_target(candidates: Candidates, what: str, task: int, titles: Sequence[str]) -> SimilarityTarget:
    """Similarity to the sentences of a class (its number), or ``risk``, as the zero-shot evaluation has them.

    Raises:
        ValueError: there is no such class.
    """
    if what == "risk":
        early, late = early_and_late(candidates)
        return SimilarityTarget("zero_shot_risk", "zero-shot risk", task, early, late, mean=True)
    if not what.isdigit() or int(what) >= len(candidates.classes):
        raise ValueError(
            f"zero_shot:{what}: should be risk, or a class from 0 to {len(candidates.classes) - 1}"
        )
    title = f"similarity to the sentences of {titles[int(what)]}"
    return SimilarityTarget(f"zero_shot_{what}", title, task, candidates.classes[int(what)])
