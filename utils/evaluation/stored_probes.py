"""Fitted probes as plain arrays: what a model says of a patient long after its training patients are gone.

``probes.npz`` lies beside the weights and is read without pickle. For every task token it holds

- the logistic regression of the subtype: ``class_weights [k, O]``, ``class_bias [k]`` and the classes they are about,
  ``class_rows`` (two classes have one row of weights, more have one each, one-versus-rest);
- the Cox model: ``cox_weights [O]`` and ``cox_mean [O]`` (a risk is ``(x - mean) . weights``), the baseline
  cumulative hazard ``hazard [m]`` at ``hazard_months [m]``, and the sorted risks of the training patients
  ``risks [n]``;
- the ridge regression of a number: ``number_weights [O]`` and ``number_bias``;
- where the training patients lie: ``centre [O]``, ``precision [O, O]`` (Ledoit-Wolf) and ``limit``, the distance
  that 99 % of held-out training patients stay below.

A part that could not be fitted is missing, and its reason is stored instead.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.covariance import LedoitWolf
from sklearn.model_selection import KFold

from utils.evaluation.embeddings import Embeddings
from utils.evaluation.number_probe import NumberProbe
from utils.evaluation.probes import SubtypeProbe, SurvivalProbe
from utils.files import ARCHIVE_ERRORS, FileError, atomic_path, content_of

PROBES = "probes.npz"
OUTLIER_QUANTILE = 0.99
_FOLDS = 5
_ABOUT = "about"


@dataclass(frozen=True, eq=False)
class TaskProbes:
    """The probes of one task token; see the module. ``reasons`` says why a part is None."""

    class_weights: np.ndarray | None = None
    class_bias: np.ndarray | None = None
    class_rows: np.ndarray | None = None
    cox_weights: np.ndarray | None = None
    cox_mean: np.ndarray | None = None
    hazard: np.ndarray | None = None
    hazard_months: np.ndarray | None = None
    risks: np.ndarray | None = None
    number_weights: np.ndarray | None = None
    number_bias: np.ndarray | None = None
    centre: np.ndarray | None = None
    precision: np.ndarray | None = None
    limit: np.ndarray | None = None

    def check(self, name: str, num_classes: int) -> None:
        """Raises ValueError where the arrays do not belong together or are no finite numbers."""
        shapes = {
            "class_weights": "kO",
            "class_bias": "k",
            "class_rows": "r",
            "cox_weights": "O",
            "cox_mean": "O",
            "hazard": "m",
            "hazard_months": "m",
            "risks": "n",
            "number_weights": "O",
            "number_bias": "",
            "centre": "O",
            "precision": "OO",
            "limit": "",
        }
        sizes: dict[str, int] = {}
        for part, letters in shapes.items():
            array = getattr(self, part)
            if array is None:
                continue
            if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
                raise ValueError(f"{name}/{part} holds something else than finite numbers")
            if array.ndim != len(letters) or any(
                sizes.setdefault(letter, size) != size or not size
                for letter, size in zip(letters, array.shape, strict=True)
            ):
                raise ValueError(f"{name}/{part} is {array.shape}, which does not fit the other arrays")
        if self.class_rows is not None:
            rows, k = self.class_rows.tolist(), sizes.get("k", 0)
            if len(rows) != max(k, 2) or sorted({*rows} & {*range(num_classes)}) != sorted(rows):
                raise ValueError(
                    f"{name}/class_rows is {rows} for {k} rows of weights and {num_classes} classes"
                )
        for part in ("hazard", "hazard_months", "risks"):
            array = getattr(self, part)
            if array is not None and (np.diff(array) < 0).any():
                raise ValueError(f"{name}/{part} does not ascend")
        for group in (("class_weights", "class_bias", "class_rows"), ("cox_weights", "cox_mean", "risks")):
            if 0 < sum(getattr(self, part) is None for part in group) < len(group):
                raise ValueError(f"{name} has some of {', '.join(group)} only")

    def probabilities(self, vectors: np.ndarray, num_classes: int) -> np.ndarray:
        """``[n, O] -> [n, num_classes]``; NaN where there is no subtype probe."""
        if self.class_weights is None or self.class_bias is None or self.class_rows is None:
            return np.full((len(vectors), num_classes), np.nan)
        chances = 1 / (1 + np.exp(-(vectors @ self.class_weights.T + self.class_bias)))  # [n, k]
        found = np.zeros((len(vectors), num_classes))
        if len(self.class_weights) == 1:
            found[:, self.class_rows] = np.concatenate([1 - chances, chances], axis=1)
        else:
            found[:, self.class_rows] = chances / chances.sum(axis=1, keepdims=True)
        return found

    def risk(self, vectors: np.ndarray) -> np.ndarray:
        """Log partial hazard ``[n]``, higher dies earlier; NaN where there is no Cox model."""
        if self.cox_weights is None or self.cox_mean is None:
            return np.full(len(vectors), np.nan)
        return (vectors - self.cox_mean) @ self.cox_weights

    def number(self, vectors: np.ndarray) -> np.ndarray:
        """The number that the task is evaluated by ``[n]``; NaN where there is no such probe."""
        if self.number_weights is None or self.number_bias is None:
            return np.full(len(vectors), np.nan)
        return vectors @ self.number_weights + self.number_bias

    def percentile(self, risk: np.ndarray) -> np.ndarray:
        """Share of training patients with a lower risk ``[n]``, in percent; ties count one half."""
        if self.risks is None:
            return np.full(len(risk), np.nan)
        below = np.searchsorted(self.risks, risk, "left") + np.searchsorted(self.risks, risk, "right")
        return np.where(np.isnan(risk), np.nan, 50 * below / len(self.risks))

    def survival(self, risk: np.ndarray, months: Sequence[float]) -> np.ndarray:
        """Probability to be alive after ``months``, ``[n, len(months)]``; NaN beyond the last training death."""
        if self.hazard is None or self.hazard_months is None:
            return np.full((len(risk), len(months)), np.nan)
        at = np.searchsorted(self.hazard_months, months, "right") - 1
        hazard = np.where(at < 0, 0.0, self.hazard[np.maximum(at, 0)])
        hazard = np.where(np.asarray(months) > self.hazard_months[-1], np.nan, hazard)
        return np.exp(-np.exp(risk)[:, None] * hazard)

    def distance(self, vectors: np.ndarray) -> np.ndarray:
        """Mahalanobis distance to the training patients, in multiples of the limit ``[n]``; above 1 is outside."""
        if self.centre is None or self.precision is None or self.limit is None:
            return np.full(len(vectors), np.nan)
        return _mahalanobis(vectors, self.centre, self.precision) / self.limit


@dataclass(frozen=True, eq=False)
class StoredProbes:
    """All probes of a model on a cohort.

    Attributes:
        tasks: by name of the task token.
        class_names: of the cohort, in the order of the columns of :meth:`TaskProbes.probabilities`.
        reasons: why a part is missing, by ``task/part``.
        own_classes: names of the classes of tasks that are evaluated by others than those of the cohort.
    """

    tasks: Mapping[str, TaskProbes]
    class_names: tuple[str, ...]
    reasons: Mapping[str, str]
    own_classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def classes_of(self, task: str) -> tuple[str, ...]:
        """Names of the classes that the probe of a task predicts."""
        return self.own_classes.get(task, self.class_names)

    def predicts(self, task: str, part: str) -> bool:
        """Whether a task is evaluated by ``subtype``, ``survival`` or ``number``, also where the fit failed."""
        array = {"subtype": "class_weights", "survival": "cox_weights", "number": "number_weights"}[part]
        return getattr(self.tasks[task], array) is not None or f"{task}/{part}" in self.reasons

    def save(self, path: Path) -> None:
        """Writes ``probes.npz``, atomically."""
        arrays = {
            f"{task}/{entry.name}": getattr(probes, entry.name)
            for task, probes in self.tasks.items()
            for entry in fields(probes)
            if getattr(probes, entry.name) is not None
        }
        about = {
            "tasks": list(self.tasks),
            "class_names": self.class_names,
            "reasons": dict(self.reasons),
            "own_classes": dict(self.own_classes),
        }
        about["digest"] = _digest(arrays)
        with atomic_path(path) as temporary, temporary.open("wb") as handle:
            np.savez(handle, allow_pickle=False, **{**arrays, _ABOUT: np.array(json.dumps(about))})

    @classmethod
    def load(cls, path: Path) -> StoredProbes:
        """Inverse of :meth:`save`.

        Raises:
            FileNotFoundError: there is no such file.
            FileError: it is damaged or something else.
        """
        remedy = "evaluate the run again"
        try:
            with np.load(path, allow_pickle=False) as content, content_of(path, remedy):
                about = json.loads(str(content[_ABOUT]))
                tasks = {
                    task: TaskProbes(
                        **{
                            entry.name: content[f"{task}/{entry.name}"]
                            for entry in fields(TaskProbes)
                            if f"{task}/{entry.name}" in content
                        }
                    )
                    for task in about["tasks"]
                }
                own = {task: tuple(names) for task, names in about.get("own_classes", {}).items()}
                for task, probes in tasks.items():
                    probes.check(task, len(own.get(task, about["class_names"])))
                arrays = {name: content[name] for name in content.files if "/" in name}
                if about.get("digest", _digest(arrays)) != _digest(arrays):  # older files have none
                    raise ValueError("its arrays were changed after they were written")
                return cls(tasks, tuple(about["class_names"]), about["reasons"], own)
        except (FileNotFoundError, *ARCHIVE_ERRORS) as error:
            if isinstance(error, (FileError, FileNotFoundError)):
                raise
            raise FileError(path, f"is no readable file of probes ({error})", remedy) from error


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of names, types, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


def store(
    train: Embeddings,
    fitted: Mapping[str, Sequence[SubtypeProbe | SurvivalProbe | NumberProbe]],
    class_names: Sequence[str],
    own_classes: Mapping[str, tuple[str, ...]] | None = None,
) -> StoredProbes:
    """Plain arrays of the probes that were fitted on ``train``, by task token in the order of the embeddings."""
    tasks, reasons = {}, {}
    for task, (name, probes) in enumerate(fitted.items()):
        vectors = train.task(task).astype(np.float64)
        parts = _region(vectors)
        for probe in probes:
            if isinstance(probe, SubtypeProbe):
                kind, arrays = "subtype", _classifier(probe)
            elif isinstance(probe, SurvivalProbe):
                kind, arrays = "survival", _cox(probe, vectors)
            else:
                kind, arrays = "number", _ridge(probe)
            parts |= arrays
            if probe.reason:
                reasons[f"{name}/{kind}"] = probe.reason
        tasks[name] = TaskProbes(**parts)
        if tasks[name].limit is None:
            reasons[f"{name}/region"] = f"{len(vectors)} training patients, {2 * _FOLDS} are needed"
    return StoredProbes(tasks, tuple(class_names), reasons, own_classes or {})


def _classifier(probe: SubtypeProbe) -> dict[str, Any]:
    if probe.model is None:
        return {}
    parts = getattr(probe.model, "estimators_", [probe.model])  # one for each class, or one for both
    return {
        "class_weights": np.concatenate([part.coef_ for part in parts]),
        "class_bias": np.concatenate([part.intercept_ for part in parts]),
        "class_rows": np.asarray(probe.model.classes_, dtype=np.int64),
    }


def _cox(probe: SurvivalProbe, vectors: np.ndarray) -> dict[str, Any]:
    if probe.model is None:
        return {}
    weights, mean = np.zeros(vectors.shape[1]), np.zeros(vectors.shape[1])
    weights[probe.varying] = probe.model.params_.to_numpy()
    mean[probe.varying] = np.asarray(probe.model._norm_mean)
    found: dict[str, Any] = {
        "cox_weights": weights,
        "cox_mean": mean,
        "risks": np.sort((vectors - mean) @ weights),
    }
    baseline = probe.model.baseline_cumulative_hazard_
    if baseline.shape[1] == 1:  # strata have one each
        found |= {"hazard": baseline.iloc[:, 0].to_numpy(), "hazard_months": baseline.index.to_numpy(float)}
    return found


def _ridge(probe: NumberProbe) -> dict[str, Any]:
    if probe.weights is None:
        return {}
    return {"number_weights": probe.weights, "number_bias": np.array(probe.bias)}


def _region(vectors: np.ndarray) -> dict[str, Any]:
    """Where training patients lie. Distances of the patients themselves would be too small: they are held out."""
    if len(vectors) < 2 * _FOLDS:
        return {}
    distances = []
    for rest, held_out in KFold(_FOLDS, shuffle=True, random_state=0).split(vectors):
        part = LedoitWolf().fit(vectors[rest])
        distances.append(_mahalanobis(vectors[held_out], part.location_, part.precision_))
    limit = float(np.quantile(np.concatenate(distances), OUTLIER_QUANTILE))
    if not limit > 0:
        return {}
    whole = LedoitWolf().fit(vectors)
    return {
        "centre": whole.location_,
        "precision": whole.precision_.astype(np.float32),
        "limit": np.array(limit),
    }


def _mahalanobis(vectors: np.ndarray, centre: np.ndarray, precision: np.ndarray) -> np.ndarray:
    apart = vectors - centre
    return np.sqrt(np.maximum(np.einsum("ni,ij,nj->n", apart, precision.astype(np.float64), apart), 0))
