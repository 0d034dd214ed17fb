"""Rows of a result table: every metric of a task token on a split, with bootstrap intervals over its patients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from data_utils.tables.tasks import CLASSES, COHORT_CLASS, SURVIVAL, Task
from utils.evaluation import bootstrap, calibration
from utils.evaluation.embeddings import Embeddings
from utils.evaluation.heads import Head
from utils.evaluation.number_probe import NumberResult
from utils.evaluation.probes import SubtypeResult, SurvivalResult
from utils.evaluation.survival_metrics import (
    FollowUp,
    Measured,
    concordance_ipcw,
    dynamic_auc,
    integrated_brier,
)
from utils.evaluation.zero_shot import Candidates

ZERO_SHOT = "zero_shot_"
HEAD = "head_"

Result = SubtypeResult | SurvivalResult | NumberResult
_ABSENT = "a class has no case here"
_CONSTANT = "all predictions are equal"
_NO_CURVES = "no survival curves"


def metric_rows(results: Sequence[Result], train: Embeddings, seed: int, prefix: str = "") -> list[dict]:
    """Metrics of probes or heads on one split.

    Args:
        results: of a task token on the split.
        train: the training patients, whose follow-up joins that of the scored ones in the distribution of
            censoring.
        seed: of the resamples.
        prefix: of the names of the metrics.

    Returns:
        Rows with the columns metric, value, ci_low, ci_high, n, events, reason.
    """
    followed = follow_up(train)
    rows = []
    for result in results:
        if isinstance(result, SurvivalResult):
            found = _survival(result, followed, seed)
            events: float = int(result.events.sum())
        elif isinstance(result, NumberResult):
            found, events = {name: _own(result, name, seed) for name in ("r2", "spearman")}, math.nan
        else:
            found, events = _subtype(result, seed), math.nan
        for metric, measured in found.items():
            content = {"metric": prefix + metric, **vars(measured)}
            reason = content.pop("reason")
            rows.append({**content, "n": len(result.case_ids), "events": events, "reason": reason})
    return rows


def zero_shot_rows(results: Sequence[Result], seed: int) -> list[dict]:
    """The few metrics that similarities allow: they order cases, and are no probabilities."""
    rows = []
    for result in results:
        if isinstance(result, SurvivalResult):
            names: Sequence[str] = ("concordance_index",)
            events: float = int(result.events.sum())
        else:
            names, events = ("balanced_accuracy", "accuracy"), math.nan
        for name in names:
            content = {"metric": ZERO_SHOT + name, **vars(_own(result, name, seed))}
            reason = content.pop("reason")
            rows.append({**content, "n": len(result.case_ids), "events": events, "reason": reason})
    return rows


def zero_shot_results(candidates: Candidates, cases: Embeddings, task: int, token: Task) -> list[Result]:
    """Cases compared with the candidate sentences of what a token is evaluated by; numbers have no sentences."""
    found: list[Result] = []
    if (own := token.target(CLASSES)) is not None:
        found.append(candidates.of_task(token.name).subtype(cases.labelled_by(own.column), task))
    elif token.target(COHORT_CLASS) is not None:
        found.append(candidates.subtype(cases, task))
    if token.target(SURVIVAL) is not None:
        found.append(candidates.survival(cases, task))
    return found


def head_results(heads: Mapping[str, Head], task: int, cases: Embeddings) -> list[Result]:
    """The heads on a task token, scored."""
    return [
        head.subtype(cases) if kind == "subtype" else head.survival(cases)
        for kind, head in heads.items()
        if head.task == task
    ]


def follow_up(cases: Embeddings) -> FollowUp:
    """The cases of known survival."""
    known = ~np.isnan(cases.durations)
    return FollowUp(cases.durations[known], cases.events[known])


def interval_columns(
    metric: bootstrap.CountMetric, arrays: Sequence[np.ndarray], value: float, seed: int
) -> dict[str, float]:
    """Bootstrap interval of a metric for a result table; NaN where the metric itself is."""
    if math.isnan(value):
        return {"ci_low": math.nan, "ci_high": math.nan}
    low, high = bootstrap.bootstrap_interval(metric, arrays, bootstrap.RESAMPLES, seed)
    return {"ci_low": low, "ci_high": high}


_FUNCTIONS: Mapping[str, bootstrap.CountMetric] = {
    "balanced_accuracy": bootstrap.balanced_accuracy,
    "accuracy": bootstrap.accuracy,
    "auc": bootstrap.macro_auc,
    "concordance_index": bootstrap.concordance,
    "recall": bootstrap.balanced_accuracy,
    "precision": bootstrap.macro_precision,
    "f1": bootstrap.macro_f1,
    "ece": calibration.expected_calibration_error,
    "brier": calibration.brier_score,
    "r2": bootstrap.r2,
    "spearman": bootstrap.spearman,
}
_OF_PROBABILITIES = ("auc", "ece", "brier")


def _own(result: Result, name: str, seed: int) -> Measured:
    """A metric that needs nothing but the result."""
    if isinstance(result, SurvivalResult):
        arrays: tuple[np.ndarray, ...] = (result.durations, result.events, result.risk)
    elif isinstance(result, NumberResult):
        arrays = (result.numbers, result.predictions)
    else:
        arrays = (result.labels, result.probabilities if name in _OF_PROBABILITIES else result.predictions)
    if result.reason:
        return Measured(reason=result.reason)
    known = getattr(result, name, None)
    value = float(_FUNCTIONS[name](*arrays)[0]) if known is None else known
    interval = interval_columns(_FUNCTIONS[name], arrays, value, seed)
    absent = _CONSTANT if isinstance(result, NumberResult) else _ABSENT
    return Measured(value, **interval, reason=absent if math.isnan(value) else "")


def _subtype(result: SubtypeResult, seed: int) -> dict[str, Measured]:
    names = ("balanced_accuracy", "accuracy", "auc", "recall", "precision", "f1", "ece", "brier")
    return {name: _own(result, name, seed) for name in names}


def _survival(result: SurvivalResult, train: FollowUp, seed: int) -> dict[str, Measured]:
    found = {"concordance_index": _own(result, "concordance_index", seed)}
    scored = FollowUp(result.durations, result.events)
    if result.reason or result.curves is None:
        absent = Measured(reason=result.reason or _NO_CURVES)
        return found | dict.fromkeys(("concordance_ipcw", "dynamic_auc", "integrated_brier"), absent)
    curves = result.curves.within(scored)
    return found | {
        "concordance_ipcw": concordance_ipcw(train, scored, result.risk, seed),
        "dynamic_auc": dynamic_auc(train, scored, curves, seed),
        "integrated_brier": integrated_brier(train, scored, curves, seed),
    }
