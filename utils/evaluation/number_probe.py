"""A linear probe for a number, such as the share of dividing cells: ridge regression."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score

from utils.evaluation.embeddings import Embeddings

# The penalty is the best of these by leave-one-out error on the training cases.
PENALTIES = tuple(10.0**exponent for exponent in range(-3, 6))


@dataclass(frozen=True, eq=False)
class NumberResult:
    """A number probe scored on the cases of known number.

    ``r2`` is the share of variance that is explained, below 0 where the mean would do better; ``spearman`` the rank
    correlation, NaN where all predictions are equal. Both are NaN where ``reason`` is not empty.
    """

    task: int
    case_ids: list[str]
    numbers: np.ndarray
    predictions: np.ndarray
    r2: float = float("nan")
    spearman: float = float("nan")
    reason: str = ""


@dataclass(frozen=True, eq=False)
class NumberProbe:
    """A fitted number probe, ``x . weights + bias``; ``weights [O]`` is None where ``reason`` says why."""

    task: int
    column: str
    weights: np.ndarray | None
    bias: float = float("nan")
    reason: str = ""

    def predict(self, vectors: np.ndarray) -> np.ndarray:
        """Numbers ``[n]`` of embeddings ``[n, O]``; NaN where there is no probe."""
        if self.weights is None:
            return np.full(len(vectors), np.nan)
        return vectors.astype(np.float64) @ self.weights + self.bias

    def score(self, cases: Embeddings) -> NumberResult:
        """Predicts and scores the cases whose number is known."""
        known = ~np.isnan(cases.value(self.column))
        ids, numbers = cases.select_ids(known), cases.value(self.column)[known]
        predictions = self.predict(cases.task(self.task)[known])
        reason = self.reason
        if not reason and len(np.unique(numbers)) < 2:
            reason = (
                f"all scored cases have the same {self.column}" if ids else f"no case of known {self.column}"
            )
        if reason:
            return NumberResult(self.task, ids, numbers, predictions, reason=reason)
        constant = len(np.unique(predictions)) < 2
        spearman = float("nan") if constant else float(spearmanr(numbers, predictions).statistic)
        return NumberResult(
            self.task, ids, numbers, predictions, float(r2_score(numbers, predictions)), spearman
        )


def fit_number(train: Embeddings, task: int, column: str) -> NumberProbe:
    """Fits a ridge regression on the embedding dimensions of a task token, standardised over the training cases."""
    known = ~np.isnan(train.value(column))
    numbers, vectors = train.value(column)[known], train.task(task)[known].astype(np.float64)
    if len(np.unique(numbers)) < 2:
        found = f"one {column} only" if len(numbers) else f"no case of known {column}"
        return NumberProbe(task, column, None, reason=f"{found} among the training cases")
    mean, scale = vectors.mean(axis=0), vectors.std(axis=0)
    if not (scale > 0).any():
        return NumberProbe(task, column, None, reason="all training cases have the same embedding")
    scale = np.where(scale > 0, scale, 1.0)
    model = RidgeCV(PENALTIES).fit((vectors - mean) / scale, numbers)
    weights = model.coef_ / scale
    return NumberProbe(task, column, weights, float(model.intercept_ - mean @ weights))
