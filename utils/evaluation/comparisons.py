"""Paired comparisons of two models over the same patients.

A model may have several runs (seeds); what is compared is the mean of a metric over its runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from utils.evaluation.bootstrap import CountMetric, bootstrap_counts

Arrays = Sequence[np.ndarray]


@dataclass(frozen=True)
class Comparison:
    """Difference of a metric, first model minus second, its 95 % interval and two-sided p value."""

    difference: float
    ci_low: float
    ci_high: float
    p: float


def paired_bootstrap(
    metric: CountMetric, one: Sequence[Arrays], other: Sequence[Arrays], n: int = 2000, seed: int = 0
) -> Comparison:
    """Draws the patients anew, the same ones for all runs of both models.

    Args:
        metric: see :mod:`utils.evaluation.bootstrap`.
        one: what the metric takes, for every run of the first model; one entry per patient.
        other: the same patients, in the same order, for every run of the second model.
        n: resamples.
        seed: of the resamples.

    Raises:
        ValueError: numbers of patients differ.
    """
    cases = len(one[0][0])
    if any(len(array) != cases for run in (*one, *other) for array in run):
        raise ValueError("the runs that are compared have different patients")
    counts = bootstrap_counts(cases, n, seed)

    def difference(drawn: np.ndarray | None) -> np.ndarray:
        means = [np.mean([metric(*run, counts=drawn) for run in runs], axis=0) for runs in (one, other)]
        return means[0] - means[1]

    found = float(difference(None)[0])
    drawn = difference(counts)
    drawn = drawn[~np.isnan(drawn)]
    if math.isnan(found) or not len(drawn):
        return Comparison(found, math.nan, math.nan, math.nan)
    low, high = np.quantile(drawn, [0.025, 0.975])
    # One is added so that no finite number of resamples claims the impossible.
    tail = min(np.sum(drawn <= 0), np.sum(drawn >= 0)) + 1
    return Comparison(found, float(low), float(high), float(min(1.0, 2 * tail / (len(drawn) + 1))))


def delong(labels: np.ndarray, one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> Comparison:
    """Compares areas under ROC curves (DeLong et al. 1988), for more classes their one-versus-rest mean.

    Args:
        labels: classes ``[n]``; every class has at least two patients.
        one: probabilities ``[n, classes]`` of every run of the first model.
        other: of every run of the second model.

    The mean of areas over classes and runs is as linear in the patients as one area is, so that its
    variance follows from the sum of what every patient contributes. NaN where a class has fewer than two.
    """
    parts = []
    for runs in (one, other):
        found = [_area_and_influence(labels, probabilities) for probabilities in runs]
        parts.append([np.mean(np.array([f[i] for f in found]), axis=0) for i in range(2)])
    difference = float(parts[0][0] - parts[1][0])
    deviation = float(np.sqrt(((parts[0][1] - parts[1][1]) ** 2).sum()))
    if math.isnan(deviation):
        return Comparison(difference, math.nan, math.nan, math.nan)
    if deviation == 0:  # the same order of patients
        return Comparison(difference, difference, difference, 1.0)
    reach = norm.ppf(0.975) * deviation
    p = 2 * norm.sf(abs(difference) / deviation)
    return Comparison(difference, difference - reach, difference + reach, float(p))


def _area_and_influence(labels: np.ndarray, probabilities: np.ndarray) -> tuple[float, np.ndarray]:
    """The macro area and what every patient adds to its error ``[n]``; squares sum to DeLong's variance."""
    classes = [1] if probabilities.shape[1] == 2 else range(probabilities.shape[1])
    areas, influence = [], np.zeros(len(labels))
    for c in classes:
        inside, outside = np.flatnonzero(labels == c), np.flatnonzero(labels != c)
        if min(len(inside), len(outside)) < 2:
            return math.nan, np.full(len(labels), math.nan)
        first, second = probabilities[inside, c][:, None], probabilities[outside, c]
        won = (first > second) + 0.5 * (first == second)
        area = won.mean()
        areas.append(area)
        for patients, shares in ((inside, won.mean(axis=1)), (outside, won.mean(axis=0))):
            n = len(patients)
            influence[patients] += (shares - area) / math.sqrt(n * (n - 1)) / len(classes)
    return float(np.mean(areas)), influence


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction; NaN stays NaN and is not counted."""
    known = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    corrected, largest = list(p_values), 0.0
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        corrected[i] = largest
    return corrected
