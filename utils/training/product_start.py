"""Products of two modalities for the readout of a model: what one of them means may depend on the other.

A product of a direction of one modality and a direction of another is what a sum of linear models cannot be. It joins
the readout only where predictions for patients that were left out say that it helps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from sklearn.model_selection import KFold

# Directions of the targets that the search starts from, and its steps from each.
STARTS, STEPS = 3, 20
# Standard errors by which the left-out error must fall.
CLEARLY = 2.0


@dataclass(frozen=True)
class Product:
    """``weight ((first . a) (second . b) - mean)`` of standardised vectors ``a`` and ``b``.

    Attributes:
        first: ``[d_a]``.
        second: ``[d_b]``.
        mean: of the product over the patients.
        weight: ``[O]``.
    """

    first: np.ndarray
    second: np.ndarray
    mean: float
    weight: np.ndarray

    def __call__(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """``[n, d_a], [n, d_b] -> [n, O]``."""
        return np.outer((a @ self.first) * (b @ self.second) - self.mean, self.weight)


def fit_products(
    scaled: Mapping[str, np.ndarray], residual: np.ndarray, folds: KFold
) -> dict[tuple[str, str], Product]:
    """The pairs of modalities whose product says something of what is left of the targets.

    Args:
        scaled: by modality the standardised vectors ``[n, d]``.
        residual: targets ``[n, O]`` less what other models predict for patients that were left out.
        folds: who is left out together.
    """
    found = {}
    for pair in combinations(scaled, 2):
        a, b = (scaled[name] for name in pair)
        if not (a.any() and b.any()):
            continue
        predicted = np.empty_like(residual)
        for inside, outside in folds.split(residual):
            predicted[outside] = fit_product(a[inside], b[inside], residual[inside])(a[outside], b[outside])
        share = float((residual * predicted).sum() / (predicted**2).sum())
        gain = (residual**2).sum(axis=1) - ((residual - share * predicted) ** 2).sum(axis=1)
        if share > 0 and gain.mean() > CLEARLY * gain.std(ddof=1) / np.sqrt(len(gain)):
            product = fit_product(a, b, residual)
            found[pair] = replace(product, weight=share * product.weight)
            residual = residual - share * predicted
    return found


def fit_product(a: np.ndarray, b: np.ndarray, targets: np.ndarray) -> Product:
    """The product along whose directions vectors ``[n, d_a]``, ``[n, d_b]`` and targets ``[n, O]`` vary together most.

    The leading triple of the tensor of third moments, by the power method of higher order (De Lathauwer et al. 2000).
    """
    targets = targets - targets.mean(axis=0)
    starts = np.linalg.svd(targets, full_matrices=False)[2][:STARTS]
    triples = [_leading(a, b, targets, start) for start in starts]
    first, second = max(triples, key=lambda triple: triple[2])[:2]
    product = (a @ first) * (b @ second)
    mean = float(product.mean())
    product = product - mean
    return Product(first, second, mean, targets.T @ product / max(product @ product, np.finfo(float).tiny))


def _leading(
    a: np.ndarray, b: np.ndarray, targets: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Unit directions of both sides, and how far all three vary together; starts from a direction of the targets."""
    second, along = _unit(np.random.default_rng(0).normal(size=b.shape[1])), targets @ weight
    for step in range(2 * STEPS):
        first = _unit(a.T @ (along * (b @ second)))
        second = _unit(b.T @ (along * (a @ first)))
        if step >= STEPS:  # before, the directions of the two sides are still anything
            along = targets @ _unit(targets.T @ ((a @ first) * (b @ second)))
    return first, second, float(along @ ((a @ first) * (b @ second)))


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(np.linalg.norm(vector), np.finfo(float).tiny)
