"""What is explained: a differentiable number made from the output of one task token."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from utils.evaluation.stored_probes import StoredProbes, TaskProbes
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
def class_target(probes: StoredProbes, token: str, index: int, probability: bool = False) -> Target:
    """Log-odds or probability of a class, as the probe of a task token says them.

    Raises:
        ValueError: the probe could not be fitted, or knows no such class; the message says why.
    """
    found, task = _of_token(probes, token)
    if found.class_weights is None or found.class_bias is None or found.class_rows is None:
        raise ValueError(f"no subtype to explain: {probes.reasons.get(f'{token}/subtype', 'no probe')}")
    classes, weights, bias = found.class_rows.tolist(), found.class_weights, found.class_bias
    if len(weights) == 1:  # of two classes the second against the first
        weights, bias = np.concatenate([-weights, weights]), np.concatenate([-bias, bias])
    if index not in classes:
        raise ValueError(
            f"no class {index} to explain: the training patients are of {sorted(classes)} "
            f"({', '.join(probes.classes_of(token)[c] for c in sorted(classes))})"
        )
    row, title = classes.index(index), probes.classes_of(token)[index]
    if probability:
        probe = Linear.plain(weights, bias)
        return ProbabilityTarget(f"probability_{index}", f"probability of {title}", task, probe, row)
    return LinearTarget(f"class_{index}", f"log-odds of {title}", task, Linear.plain(weights[row], bias[row]))


def number_target(probes: StoredProbes, token: str) -> LinearTarget:
    """The number that a task is evaluated by.

    Raises:
        ValueError: the probe could not be fitted; the message says why.
    """
    found, task = _of_token(probes, token)
    if found.number_weights is None or found.number_bias is None:
        raise ValueError(f"no number to explain: {probes.reasons.get(f'{token}/number', 'no probe')}")
    return LinearTarget("number", token, task, Linear.plain(found.number_weights, found.number_bias))


def risk_target(probes: StoredProbes, token: str) -> LinearTarget:
    """The log partial hazard of the Cox probe of a task token; higher dies earlier.

    Raises:
        ValueError: the probe could not be fitted; the message says why.
    """
    found, task = _of_token(probes, token)
    if found.cox_weights is None or found.cox_mean is None:
        raise ValueError(f"no risk to explain: {probes.reasons.get(f'{token}/survival', 'no probe')}")
    scale = np.ones(len(found.cox_mean))
    return LinearTarget("risk", "risk", task, Linear(found.cox_weights, np.zeros(()), found.cox_mean, scale))


def _of_token(probes: StoredProbes, token: str) -> tuple[TaskProbes, int]:
    if token not in probes.tasks:
        raise ValueError(f"no probes of the task token {token}; there are {', '.join(probes.tasks)}")
    return probes.tasks[token], list(probes.tasks).index(token)


def text_target(sentence: str, vector: np.ndarray, task: int) -> SimilarityTarget:
    """Similarity to a sentence, given as the text projector has it: a unit vector ``[O]``."""
    name = f"text_{hashlib.sha256(sentence.encode()).hexdigest()[:8]}"  # another sentence is another target
    return SimilarityTarget(name, f'similarity to "{sentence}"', task, vector[None])


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
