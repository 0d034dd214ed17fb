"""Bootstrap intervals over patients.

A resample is a vector of counts: how often each patient was drawn. The metrics below take the counts
of many resamples at once, which turns a thousand evaluations into a few matrix products; with no
counts they give the metric of the data itself. Where a metric is undefined (a class was not drawn, no
comparable pair) they give NaN.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

logger = logging.getLogger(__name__)

# metric(*arrays [n, ...], counts [B, n] | None) -> [B]
CountMetric = Callable[..., np.ndarray]
# How often the evaluation draws.
RESAMPLES = 1000


def bootstrap_counts(cases: int, resamples: int, seed: int) -> np.ndarray:
    """Counts ``[resamples, cases]`` of patients drawn with replacement, without stratification."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(cases, size=(resamples, cases)) + cases * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * cases).reshape(resamples, cases).astype(float)


def bootstrap_interval(
    metric: CountMetric, arrays: Sequence[np.ndarray], n: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of ``metric(*arrays)`` over ``n`` resamples of the patients.

    Args:
        metric: one of the metrics of this module, or a function that takes counts as they do.
        arrays: what the metric takes, each with one entry per patient.

    Returns:
        Lower and upper bound. Resamples in which the metric is undefined are left out, which the log says
        once a run; both bounds are NaN where it is defined in none.
    """
    cases = len(arrays[0])
    if any(len(array) != cases for array in arrays):
        raise ValueError(f"arrays of different lengths: {[len(array) for array in arrays]}")
    if cases == 0:
        return float("nan"), float("nan")
    values = metric(*arrays, counts=bootstrap_counts(cases, n, seed))
    values = values[~np.isnan(values)]
    if len(values) < n:
        name = getattr(metric, "__name__", "metric")
        logger.debug("%s: undefined in %d of %d resamples of %d cases", name, n - len(values), n, cases)
        _say_left_out()
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@cache
def _say_left_out() -> None:
    """Says it once: with few patients it holds for most metrics of every split and token."""
    logger.info(
        "intervals: resamples of patients without a class or a death are left out, the metric is undefined there"
    )


def accuracy(labels: np.ndarray, predictions: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
    """Share of right predictions ``[B]``."""
    counts = _counts(counts, len(labels))
    return counts @ (labels == predictions) / counts.sum(axis=1)


def balanced_accuracy(
    labels: np.ndarray, predictions: np.ndarray, counts: np.ndarray | None = None
) -> np.ndarray:
    """Mean recall ``[B]`` of the classes in ``labels``; NaN where one of them was not drawn."""
    counts = _counts(counts, len(labels))
    of_class = (labels[:, None] == np.unique(labels)).astype(float)  # [n, classes]
    right = counts @ (of_class * (labels == predictions)[:, None])
    return _ratio(right, counts @ of_class).mean(axis=1)


def macro_precision(
    labels: np.ndarray, predictions: np.ndarray, counts: np.ndarray | None = None
) -> np.ndarray:
    """Mean precision ``[B]`` of the classes in ``labels``, 0 for one that is never predicted.

    NaN where one of them was not drawn.
    """
    right, predicted, cases = _per_class(labels, predictions, counts)
    precision = np.divide(right, predicted, out=np.zeros(right.shape), where=predicted > 0)
    return np.where(cases > 0, precision, np.nan).mean(axis=1)


def macro_f1(labels: np.ndarray, predictions: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
    """Mean F1 ``[B]`` of the classes in ``labels``; NaN where one of them was not drawn."""
    right, predicted, cases = _per_class(labels, predictions, counts)
    return np.where(cases > 0, _ratio(2 * right, predicted + cases), np.nan).mean(axis=1)


def _per_class(
    labels: np.ndarray, predictions: np.ndarray, counts: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How often each class in ``labels`` is rightly predicted, predicted, and there; ``[B, classes]`` each."""
    counts, classes = _counts(counts, len(labels)), np.unique(labels)
    cases, predicted = (values[:, None] == classes for values in (labels, predictions))
    return counts @ (cases & predicted), counts @ predicted, counts @ cases


def macro_auc(labels: np.ndarray, probabilities: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
    """Area under the ROC curve ``[B]`` from probabilities ``[n, classes]``.

    For three and more classes the mean of the one-versus-rest areas. NaN where a class was not drawn.
    """
    counts = _counts(counts, len(labels))
    classes = [1] if probabilities.shape[1] == 2 else range(probabilities.shape[1])
    areas = []
    for c in classes:
        inside, outside = labels == c, labels != c
        won = _wins(probabilities[inside, c][:, None], probabilities[outside, c][None, :])
        n_inside, n_outside = counts[:, inside], counts[:, outside]
        right = ((n_inside @ won) * n_outside).sum(axis=1)
        areas.append(_ratio(right, n_inside.sum(axis=1) * n_outside.sum(axis=1)))
    return np.mean(areas, axis=0)


def concordance(
    durations: np.ndarray,
    events: np.ndarray,
    risk: np.ndarray,
    counts: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """Harrell's concordance index ``[B]`` of a risk (higher dies earlier), as lifelines counts it.

    Comparable are pairs of which one is known to have died before the other: a death and any later
    time, or a death and a censoring at the same time. Equal risks count one half. With ``weights [n]`` a
    pair counts as much as the weight of its earlier death, which gives other indices (Uno's).
    """
    counts = _counts(counts, len(durations))
    died = events == 1
    first, second = durations[died][:, None], durations[None, :]
    comparable = (first < second) | ((first == second) & ~died[None, :])  # [deaths, n]
    won = comparable * _wins(risk[died][:, None], risk[None, :])
    deaths = counts[:, died] if weights is None else counts[:, died] * weights[died]
    pairs = ((deaths @ comparable.astype(float)) * counts).sum(axis=1)
    return _ratio(((deaths @ won) * counts).sum(axis=1), pairs)


def r2(numbers: np.ndarray, predictions: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
    """Share of the variance of ``numbers [n]`` that predictions explain ``[B]``; NaN where all drawn are equal."""
    counts = _counts(counts, len(numbers))
    cases = counts.sum(axis=1)
    mean = counts @ numbers / cases
    # About the mean of all, which loses no digits.
    apart = numbers - numbers.mean()
    total = counts @ apart**2 - cases * (mean - numbers.mean()) ** 2
    varied = np.where(counts > 0, numbers, -np.inf).max(axis=1) > np.where(counts > 0, numbers, np.inf).min(
        axis=1
    )
    return np.where(varied, 1 - _ratio(counts @ (numbers - predictions) ** 2, total), np.nan)


def spearman(numbers: np.ndarray, predictions: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
    """Rank correlation ``[B]``; equal values share their mean rank. NaN where all drawn are equal."""
    counts = _counts(counts, len(numbers))
    ranks = [_ranks(values, counts) for values in (numbers, predictions)]
    one, other = (
        r - (counts * r).sum(axis=1, keepdims=True) / counts.sum(axis=1, keepdims=True) for r in ranks
    )
    together, spread = (counts * one * other).sum(axis=1), [(counts * r**2).sum(axis=1) for r in (one, other)]
    return _ratio(together, np.sqrt(spread[0] * spread[1]))


def _ranks(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean rank of every case in each resample ``[B, n]``, from how many drawn cases are smaller or equal."""
    order, place = np.unique(values, return_inverse=True)
    of_value = np.zeros((len(counts), len(order)))
    np.add.at(of_value.T, place, counts.T)
    return (np.cumsum(of_value, axis=1) - of_value / 2)[:, place]


def _counts(counts: np.ndarray | None, cases: int) -> np.ndarray:
    return np.ones((1, cases)) if counts is None else counts


def _wins(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return (one > other) + 0.5 * (one == other)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
