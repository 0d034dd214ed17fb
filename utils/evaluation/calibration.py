"""Whether predicted class probabilities mean what they say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BINS = 10


@dataclass(frozen=True, eq=False)
class Reliability:
    """Cases grouped by the probability of their predicted class, in intervals of equal width.

    Attributes:
        confidence: mean probability of the predicted class in every interval ``[B]``; NaN in empty ones.
        accuracy: share of right predictions ``[B]``.
        cases: how many cases there are ``[B]``.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    cases: np.ndarray


def reliability(labels: np.ndarray, probabilities: np.ndarray, bins: int = BINS) -> Reliability:
    """Groups cases of labels ``[n]`` and probabilities ``[n, classes]``; intervals are left-open."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    interval = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    cases = np.bincount(interval, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean_confidence, accuracy = (
            np.bincount(interval, weights=values, minlength=bins) / cases for values in (confidence, right)
        )
    return Reliability(mean_confidence, accuracy, cases)


def expected_calibration_error(
    labels: np.ndarray, probabilities: np.ndarray, counts: np.ndarray | None = None
) -> np.ndarray:
    """Mean distance between confidence and accuracy over the intervals of :func:`reliability` ``[B]``.

    Args:
        labels: classes ``[n]``.
        probabilities: ``[n, classes]``.
        counts: of resamples ``[B, n]``, see :mod:`utils.evaluation.bootstrap`.
    """
    counts = np.ones((1, len(labels))) if counts is None else counts
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    interval = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    inside = interval[:, None] == np.arange(BINS)
    gaps = counts @ (inside * (confidence - right)[:, None])
    return np.abs(gaps).sum(axis=1) / counts.sum(axis=1)


def brier_score(
    labels: np.ndarray, probabilities: np.ndarray, counts: np.ndarray | None = None
) -> np.ndarray:
    """Mean squared distance of probabilities ``[n, classes]`` from the true class, summed over classes ``[B]``.

    0 is perfect and 2 the worst; for two classes it is twice the score of one of them.
    """
    counts = np.ones((1, len(labels))) if counts is None else counts
    truth = labels[:, None] == np.arange(probabilities.shape[1])
    return counts @ ((probabilities - truth) ** 2).sum(axis=1) / counts.sum(axis=1)
