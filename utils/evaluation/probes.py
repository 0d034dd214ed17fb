"""Linear probes on frozen embeddings: logistic regression for the subtype, Cox for survival.

A probe is fitted on the embeddings of one task token of the training cases and scored on any other
set of cases. What cannot be evaluated (one class only, no deaths, a Cox model that does not
converge) gives a result whose metrics are NaN and whose ``reason`` says why: a small cohort must
not end a training run. Embeddings that are not finite do end it, because nothing after them means
anything.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from lifelines.exceptions import ConvergenceError, ConvergenceWarning
from lifelines.utils import concordance_index
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix, roc_auc_score
from sklearn.multiclass import OneVsRestClassifier

from utils.evaluation.cox import CoxModel
from utils.evaluation.embeddings import Embeddings, name_cases
from utils.evaluation.survival_metrics import Curves

__all__ = [
    "Embeddings",
    "SubtypeProbe",
    "SubtypeResult",
    "SurvivalProbe",
    "SurvivalResult",
    "fit_subtype",
    "fit_survival",
    "subtype_probe",
    "survival_probe",
]

logger = logging.getLogger(__name__)

COX_PENALIZER = 0.1
LOGISTIC_MAX_ITER = 200
# lifelines starts with nearly full Newton steps (0.95), which cycle for ever in about one of five cohorts
# with fewer patients than embedding dimensions. The penalised likelihood has a single optimum; a quarter of a
# step, which lifelines lengthens as it goes, reaches it.
COX_OPTIONS = {"step_size": 0.25, "max_steps": 200}


# ---------------------------------------------------------------------------- subtype
@dataclass(frozen=True, eq=False)
class SubtypeResult:
    """A subtype probe scored on the cases of known class.

    ``probabilities`` is ``[n, num_classes]``, ``confusion`` ``[num_classes, num_classes]`` with the
    true class in rows. ``auc`` is the macro mean of one-versus-rest curves for three and more classes,
    NaN where a class has no case. Metrics are NaN where ``reason`` is not empty.
    """

    task: int
    case_ids: list[str]
    labels: np.ndarray
    predictions: np.ndarray
    probabilities: np.ndarray
    accuracy: float = float("nan")
    balanced_accuracy: float = float("nan")
    auc: float = float("nan")
    confusion: np.ndarray | None = None
    reason: str = ""


@dataclass(frozen=True, eq=False)
class SubtypeProbe:
    """A fitted subtype probe; ``model`` is None where ``reason`` says why there is none. Classes without names are
    called by their numbers.
    """

    task: int
    num_classes: int
    model: LogisticRegression | OneVsRestClassifier | None
    reason: str = ""
    class_names: Sequence[str] = ()

    def score(self, cases: Embeddings) -> SubtypeResult:
        """Predicts and scores the cases whose class is known."""
        _check_classes(cases, self.num_classes)
        known = cases.labels >= 0
        labels, ids = cases.labels[known], cases.select_ids(known)
        if self.model is None or not len(ids):
            return SubtypeResult(
                task=self.task,
                case_ids=ids,
                labels=labels,
                predictions=np.full(len(ids), -1),
                probabilities=np.full((len(ids), self.num_classes), np.nan),
                reason=self.reason or "no case of known class to score",
            )
        predictions, probabilities = self.predict(cases.task(self.task)[known])
        return score_subtype(self.task, ids, labels, predictions, probabilities, self.class_names)

    def predict(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Classes ``[n]`` and probabilities ``[n, num_classes]`` of embeddings ``[n, O]``, whatever is known of them.

        -1 and NaN where there is no model.
        """
        if self.model is None or not len(vectors):
            nothing = np.full((len(vectors), self.num_classes), np.nan)
            return np.full(len(vectors), -1), nothing
        probabilities = np.zeros((len(vectors), self.num_classes))
        probabilities[:, self.model.classes_] = self.model.predict_proba(vectors)
        return self.model.predict(vectors), probabilities


def score_subtype(
    task: int,
    case_ids: list[str],
    labels: np.ndarray,
    predictions: np.ndarray,
    probabilities: np.ndarray,
    class_names: Sequence[str] = (),
) -> SubtypeResult:
    """Scores predicted classes ``[n]`` and probabilities ``[n, num_classes]``, wherever they come from."""
    content: dict[str, Any] = {
        "task": task,
        "case_ids": case_ids,
        "labels": labels,
        "predictions": predictions,
        "probabilities": probabilities,
    }
    present = np.unique(labels)
    if len(present) < 2:
        found = "no case to score"
        if len(present):
            found = f"only {_named(present[0], class_names)} among the scored cases"
        return SubtypeResult(**content, reason=found)
    confusion = confusion_matrix(labels, predictions, labels=range(probabilities.shape[1]))
    correct, cases = confusion.diagonal(), np.bincount(labels, minlength=probabilities.shape[1])
    return SubtypeResult(
        **content,
        accuracy=float(correct.sum() / cases.sum()),
        # A class without cases is no fault: it has no recall to average.
        balanced_accuracy=float(np.mean(correct[cases > 0] / cases[cases > 0])),
        auc=_auc(labels, probabilities),
        confusion=confusion,
    )


def _named(label: int, class_names: Sequence[str]) -> str:
    return class_names[label] if len(class_names) else f"class {label}"


def fit_subtype(
    train: Embeddings, task: int, num_classes: int, class_names: Sequence[str] = ()
) -> SubtypeProbe:
    """Fits the subtype probe of the published evaluation on the cases of known class.

    liblinear is a two-class solver; three and more classes are one-versus-rest, which scikit-learn
    wants said explicitly.

    Raises:
        ValueError: a label is not below ``num_classes``.
    """
    _check_classes(train, num_classes)
    known = train.labels >= 0
    labels = train.labels[known]
    present = np.unique(labels)
    if len(present) < 2:
        found = f"only {_named(present[0], class_names)}" if len(present) else "no case of known class"
        return SubtypeProbe(task, num_classes, None, f"{found} among the training cases", class_names)
    model = LogisticRegression(solver="liblinear", max_iter=LOGISTIC_MAX_ITER, random_state=0)
    if len(present) > 2:
        model = OneVsRestClassifier(model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(train.task(task)[known], labels)
    _log_warnings("subtype", task, caught)
    return SubtypeProbe(task, num_classes, model, class_names=class_names)


def subtype_probe(train: Embeddings, test: Embeddings, task: int, num_classes: int) -> SubtypeResult:
    """Fits the subtype probe of a task token on ``train`` and scores it on ``test``."""
    return fit_subtype(train, task, num_classes).score(test)


def _check_classes(cases: Embeddings, num_classes: int) -> None:
    outside = cases.labels >= num_classes
    if outside.any():
        raise ValueError(
            f"class {cases.labels.max()} occurs, but num_classes is {num_classes} (--num_classes): "
            f"cases {name_cases(cases.select_ids(outside))}"
        )


def _auc(labels: np.ndarray, probabilities: np.ndarray) -> float:
    num_classes = probabilities.shape[1]
    if len(np.unique(labels)) < num_classes:
        return float("nan")
    if num_classes == 2:
        return float(roc_auc_score(labels, probabilities[:, 1]))
    return float(np.mean([roc_auc_score(labels == c, probabilities[:, c]) for c in range(num_classes)]))


# ---------------------------------------------------------------------------- survival
@dataclass(frozen=True, eq=False)
class SurvivalResult:
    """A Cox probe scored on the cases of known survival.

    ``risk [n]`` is the log partial hazard (higher dies earlier). The concordance index is NaN where
    ``reason`` is not empty. ``curves`` is the predicted survival at some times, where there is any.
    """

    task: int
    case_ids: list[str]
    durations: np.ndarray
    events: np.ndarray
    risk: np.ndarray
    concordance_index: float = float("nan")
    reason: str = ""
    curves: Curves | None = None


@dataclass(frozen=True, eq=False)
class SurvivalProbe:
    """A fitted Cox probe; ``model`` is None where ``reason`` says why there is none.

    ``varying [O]`` marks the embedding dimensions the model sees, ``median_risk`` is the median risk
    of the training cases, ``times [K]`` are the quartiles of the times of death of the training cases, at which
    survival curves are scored.
    """

    task: int
    model: CoxModel | None
    varying: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))
    median_risk: float = float("nan")
    reason: str = ""
    times: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def score(self, cases: Embeddings) -> SurvivalResult:
        """Predicts and scores the cases whose survival is known."""
        known = ~np.isnan(cases.durations)
        ids, durations, events = cases.select_ids(known), cases.durations[known], cases.events[known]
        if self.model is None or not ids:
            reason = self.reason or "no case of known survival to score"
            return SurvivalResult(self.task, ids, durations, events, np.full(len(ids), np.nan), reason=reason)
        risk = _risk(self.model, cases.task(self.task)[known][:, self.varying])
        curves = None if self.model.strata is not None else self._curves(self.model, risk)
        return score_survival(self.task, ids, durations, events, risk, curves)

    def _curves(self, model: CoxModel, risk: np.ndarray) -> Curves:
        """Survival from Breslow's baseline hazard, which moves at deaths only (lifelines interpolates)."""
        hazard = model.baseline_cumulative_hazard_.iloc[:, 0]
        step = np.searchsorted(hazard.index.to_numpy(), self.times, side="right") - 1
        reached = np.where(step >= 0, hazard.to_numpy()[np.maximum(step, 0)], 0.0)
        alive = np.exp(-reached * np.exp(np.clip(risk, -500, 500))[:, None])
        return Curves(self.times, alive, np.repeat(risk[:, None], len(self.times), axis=1))

    def risk(self, vectors: np.ndarray) -> np.ndarray:
        """Log partial hazard ``[n]`` of embeddings ``[n, O]``, whatever is known of them; NaN without a model."""
        if self.model is None or not len(vectors):
            return np.full(len(vectors), np.nan)
        return _risk(self.model, vectors[:, self.varying])


def score_survival(
    task: int,
    case_ids: list[str],
    durations: np.ndarray,
    events: np.ndarray,
    risk: np.ndarray,
    curves: Curves | None = None,
) -> SurvivalResult:
    """Scores a risk ``[n]`` (higher dies earlier), wherever it comes from."""
    try:
        value, reason = float(concordance_index(durations, -risk, events)), ""
    except ZeroDivisionError:
        value, reason = float("nan"), "no two scored cases of which one is known to have died earlier"
    return SurvivalResult(task, case_ids, durations, events, risk, value, reason, curves)


def fit_survival(train: Embeddings, task: int, strata: Sequence[str] | None = None) -> SurvivalProbe:
    """Fits the Cox probe of the published evaluation on the embedding dimensions of one task token.

    Args:
        train: training cases.
        task: which task token.
        strata: group of every case; each has a baseline hazard of its own. One for all if not given.

    lifelines fits (Efron's ties, penalty on standardised covariates). Three things make it quick and safe
    without changing the optimum: :func:`_at_risk_times`, its batch mode, which uses BLAS for the cases of
    one time, and shorter first steps (``COX_OPTIONS``). Constant dimensions carry no information and
    cannot be standardised; they stay out.
    """
    known = ~np.isnan(train.durations)
    durations, events = train.durations[known], train.events[known]
    vectors = train.task(task)[known].astype(np.float64)
    if not events.any():
        return SurvivalProbe(task, None, reason="no death among the training cases")
    varying = np.ptp(vectors, axis=0) > 0
    if not varying.any():
        return SurvivalProbe(task, None, reason="all training cases have the same embedding")
    vectors = vectors[:, varying]
    groups = np.zeros(len(vectors)) if strata is None else np.asarray(list(strata))[known]
    times = np.empty_like(durations)
    for group in np.unique(groups):
        members = groups == group
        times[members] = _at_risk_times(durations[members], events[members])
    table = _table(vectors).assign(duration=times, event=events)
    columns = None if strata is None else ["stratum"]
    if columns:
        table["stratum"] = groups
    model = CoxModel(COX_PENALIZER)
    reason = ""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model.fit(table, "duration", "event", strata=columns, batch_mode=True, fit_options=COX_OPTIONS)
        except (ConvergenceError, np.linalg.LinAlgError) as error:
            reason = str(error.args[0]).split(". ")[0]
    _log_warnings("Cox", task, caught)
    if not reason and any(_says_not_converged(warning) for warning in caught):
        reason = f"no convergence in {COX_OPTIONS['max_steps']} steps"
    if not reason and not np.isfinite(model.params_).all():
        reason = "coefficients are not finite"
    if reason:
        return SurvivalProbe(task, None, reason=f"the Cox model could not be fitted: {reason}")
    # As many and as spread as the ends of a survival head's intervals, so that their scores compare.
    quartiles = np.unique(np.quantile(durations[events == 1], [0.25, 0.5, 0.75]))
    return SurvivalProbe(task, model, varying, float(np.median(_risk(model, vectors))), times=quartiles)


def survival_probe(train: Embeddings, test: Embeddings, task: int) -> SurvivalResult:
    """Fits the Cox probe of a task token on ``train`` and scores it on ``test``."""
    return fit_survival(train, task).score(test)


def _at_risk_times(durations: np.ndarray, events: np.ndarray) -> np.ndarray:
    """Moves censored times back to the last death at or before them.

    The partial likelihood knows a censored case only by the deaths it was still at risk at, so it
    does not change, with a third of the distinct times to loop over.
    """
    deaths = np.unique(durations[events == 1])
    last = np.searchsorted(deaths, durations, side="right") - 1
    return np.where(last >= 0, deaths[np.maximum(last, 0)], 0.0)


def _table(vectors: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(vectors, columns=[f"e{i}" for i in range(vectors.shape[1])])


def _risk(model: CoxModel, vectors: np.ndarray) -> np.ndarray:
    # The logarithm orders cases as the partial hazard does, without its overflow and ties at infinity.
    return model.predict_log_partial_hazard(vectors.astype(np.float64)).to_numpy()


def _says_not_converged(warning: warnings.WarningMessage) -> bool:
    return issubclass(warning.category, ConvergenceWarning) and "failed to converge" in str(warning.message)


def _log_warnings(probe: str, task: int, caught: Sequence[warnings.WarningMessage]) -> None:
    for warning in caught:
        logger.debug("%s probe of task token %d: %s", probe, task, str(warning.message).strip())
