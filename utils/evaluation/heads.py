"""Trained heads, evaluated as they are: what a model predicts itself, beside the probes fitted on its outputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import nn

from data_utils.tables.survival_bins import SurvivalBins
from utils.evaluation.embeddings import Embeddings
from utils.evaluation.probes import SubtypeResult, SurvivalResult, score_subtype, score_survival
from utils.evaluation.survival_metrics import Curves


@dataclass(frozen=True, eq=False)
class Head:
    """A linear head on one task token.

    Attributes:
        task: index of the task token.
        weight: ``[K, O]``.
        bias: ``[K]``.
        bins: the intervals of a survival head.
    """

    task: int
    weight: np.ndarray
    bias: np.ndarray
    bins: SurvivalBins | None = None

    @classmethod
    def of(cls, layer: nn.Linear, task: int, bins: SurvivalBins | None = None) -> Head:
        """A copy of a layer as it is now."""
        weight, bias = (p.detach().double().cpu().numpy().copy() for p in (layer.weight, layer.bias))
        return cls(task, weight, bias, bins)

    def logits(self, cases: Embeddings) -> np.ndarray:
        """``[n, K]`` in float64."""
        return cases.task(self.task).astype(np.float64) @ self.weight.T + self.bias

    def probabilities(self, cases: Embeddings) -> np.ndarray:
        """Class probabilities ``[n, K]`` of a subtype head."""
        logits = self.logits(cases)
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        return shares / shares.sum(axis=1, keepdims=True)

    def alive(self, cases: Embeddings) -> np.ndarray:
        """Probability to live on after each interval ``[n, K]`` of a survival head."""
        return np.cumprod(1 / (1 + np.exp(np.clip(self.logits(cases), -500, 500))), axis=1)

    def risk(self, cases: Embeddings) -> np.ndarray:
        """Risk ``[n]`` of a survival head: ``-sum`` of the survival curve, higher dies earlier."""
        return -self.alive(cases).sum(axis=1)

    def subtype(self, cases: Embeddings) -> SubtypeResult:
        """A subtype head scored on the cases of known class."""
        known = cases.labels >= 0
        probabilities = self.probabilities(cases)[known]
        return score_subtype(
            self.task,
            cases.select_ids(known),
            cases.labels[known],
            probabilities.argmax(axis=1),
            probabilities,
        )

    def survival(self, cases: Embeddings) -> SurvivalResult:
        """A survival head scored on the cases of known survival."""
        known = ~np.isnan(cases.durations)
        alive = self.alive(cases)[known]
        # Survival is predicted for the ends of the intervals; the last one has none that could be scored.
        inner = np.empty(0) if self.bins is None else self.bins.inner
        at_edges = alive[:, : len(inner)]
        return score_survival(
            self.task,
            cases.select_ids(known),
            cases.durations[known],
            cases.events[known],
            self.risk(cases)[known],
            Curves(inner, at_edges, 1 - at_edges),
        )
