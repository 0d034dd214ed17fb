"""Evaluation without probes: a patient is compared with sentences.

The model was trained to put a patient where the frozen text projector puts the sentences of that patient. So
the class can be read off as the diagnosis sentence nearest to the output, and the risk from the survival
sentences, also on a cohort no probe was fitted on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from data_utils.tables.tasks import OWN_CLASS
from utils.evaluation.embeddings import Embeddings
from utils.evaluation.probes import SubtypeResult, SurvivalResult, score_subtype, score_survival
from utils.files import FileError
from utils.tensor_files import read_tensors

# How many of the survival quartiles, from either end, count as early and as late.
_HALF = 2


class SentenceProjector(Protocol):
    """What a trained model does to sentences (:class:`utils.training.objectives.TextDistillation`)."""

    @property
    def projector(self) -> nn.Sequential:
        """Maps sentences to the output space."""

    def project(self, text: Tensor) -> Tensor:
        """Unit vectors ``[..., O]`` of sentences ``[..., text width]``."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """Projected candidate sentences of one cohort, unit vectors.

    Attributes:
        classes: for every class one vector per diagnosis ``[k, O]``.
        died: one vector per survival quartile ``[4, O]``, the earliest first; None without survival times.
        censored: the same for censored patients.
        own_classes: by name of a task that is evaluated by classes of its own, one vector ``[1, O]`` for each.
        without_classes: why there are no ``classes``, where there are none.
    """

    classes: Sequence[np.ndarray]
    died: np.ndarray | None
    censored: np.ndarray | None
    own_classes: Mapping[str, Sequence[np.ndarray]] = field(default_factory=dict)
    without_classes: str = "the cohort has no classes"

    def of_task(self, name: str) -> Candidates:
        """The candidates for the own classes of a task; there may be none."""
        return replace(
            self, classes=self.own_classes.get(name, ()), without_classes="no sentence says its class alone"
        )

    def similarity(self, vectors: np.ndarray) -> np.ndarray:
        """Cosine of ``vectors [n, O]`` with the nearest sentence of every class, ``[n, classes]``."""
        outputs = _unit(vectors)
        return np.stack([(outputs @ members.T).max(axis=1) for members in self.classes], axis=1)

    def subtype(self, cases: Embeddings, task: int) -> SubtypeResult:
        """The class of the nearest diagnosis sentence, scored on the cases of known class.

        The probabilities are a softmax over the similarities; they order cases and are not calibrated.
        """
        known = cases.labels >= 0
        if not self.classes:
            return SubtypeResult(
                task,
                [],
                np.zeros(0, int),
                np.zeros(0, int),
                np.zeros((0, 2)),
                reason=self.without_classes,
            )
        similarity = self.similarity(cases.task(task)[known])
        shares = np.exp(similarity - similarity.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        return score_subtype(
            task, cases.select_ids(known), cases.labels[known], similarity.argmax(axis=1), shares
        )

    def survival(self, cases: Embeddings, task: int) -> SurvivalResult:
        """How much nearer a case is to "died early" than to "censored late", scored as a risk."""
        known = ~np.isnan(cases.durations)
        if self.died is None or self.censored is None:
            nothing = np.zeros(0)
            return SurvivalResult(
                task, [], nothing, nothing, nothing, reason="the cohort has no survival times"
            )
        outputs = _unit(cases.task(task)[known])
        early, late = early_and_late(self)
        risk = (outputs @ early.T).mean(axis=1) - (outputs @ late.T).mean(axis=1)
        return score_survival(
            task, cases.select_ids(known), cases.durations[known], cases.events[known], risk
        )


def early_and_late(candidates: Candidates) -> tuple[np.ndarray, np.ndarray]:
    """Sentences of who died early and of who was censored late ``[2, O]``, between which the risk is measured."""
    return candidates.died[:_HALF], candidates.censored[-_HALF:]


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = vectors.astype(np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def read_candidates(path: str | Path, objective: SentenceProjector) -> dict[str, Candidates]:
    """Candidates by cohort, projected by the text projector of a trained model.

    Args:
        path: ``{cohort: {class_<i>: [k, 512], died: [4, 512], censored: [4, 512]}}`` as
            data_utils.make_textemb_conch writes it.
        objective: holds the projector.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or holds something else.
    """
    remedy = "write it with python -m data_utils.make_textemb_conch"
    if not Path(path).is_file():
        raise FileNotFoundError(f"--candidate_location {path} does not exist; {remedy}")
    content = read_tensors(path, "table of candidate sentences")
    text_dim = objective.projector[0].in_features
    if not isinstance(content, dict) or not all(_is_group(group, text_dim) for group in content.values()):
        raise FileError(path, "holds no candidate sentences", remedy)
    return {cohort: _project(group, objective) for cohort, group in content.items()}


def _is_group(group: object, text_dim: int) -> bool:
    if not isinstance(group, Mapping) or not (
        {"class_0"} <= group.keys()
        or {"died", "censored"} <= group.keys()
        or any(str(name).startswith(OWN_CLASS) for name in group)
    ):
        return False
    return all(isinstance(v, Tensor) and v.ndim == 2 and v.shape[1] == text_dim for v in group.values())


def _project(group: Mapping[str, Tensor], objective: SentenceProjector) -> Candidates:
    weight = objective.projector[0].weight
    with torch.inference_mode():
        vectors = {
            name: objective.project(text.to(weight)).double().cpu().numpy() for name, text in group.items()
        }
    classes = sorted((name for name in vectors if name.startswith("class_")), key=lambda n: int(n[6:]))
    own: dict[str, list[np.ndarray]] = {}
    for name in vectors:  # in the order of the classes
        if name.startswith(OWN_CLASS):
            own.setdefault(name.split(":")[1], []).append(vectors[name])
    return Candidates([vectors[name] for name in classes], vectors.get("died"), vectors.get("censored"), own)
