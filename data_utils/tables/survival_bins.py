"""Survival time in intervals, for discrete-time survival models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

NUM_BINS = 4
_MARGIN = 1e-6


@dataclass(frozen=True)
class SurvivalBins:
    """Left-closed intervals ``[edge_k, edge_k+1)`` of months.

    They are quantiles over the deaths, unlike those of the label sentences, which are over all patients.

    Attributes:
        edges: ``K + 1`` ascending numbers.
    """

    edges: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.edges) < 2 or not all(a < b for a, b in pairwise(self.edges)):
            raise ValueError(f"edges of survival bins must ascend, got {list(self.edges)}")

    @classmethod
    def fit(
        cls,
        durations: Sequence[float],
        events: Sequence[int],
        where: str,
        open_ended: bool = False,
        num_bins: int = NUM_BINS,
    ) -> SurvivalBins:
        """Quantile edges of the times of death.

        Args:
            durations: months of every patient; NaN where unknown.
            events: 1 died, 0 censored.
            where: cohort, for messages.
            open_ended: the outer edges are 0 and infinity, for bins of a training split that later patients are
                put into; otherwise those of the shortest and longest time given.
            num_bins: ``K``.

        Raises:
            ValueError: too few distinct times of death.
        """
        times, died = np.asarray(durations, dtype=float), np.asarray(events) == 1
        known = ~np.isnan(times)
        deaths = times[known & died]
        if not len(deaths):
            raise ValueError(f"{where}: no patient of known survival died, so survival has no intervals")
        inner = np.quantile(deaths, np.linspace(0, 1, num_bins + 1))[1:-1]
        if open_ended:
            first, last = 0.0, math.inf
        else:
            first, last = times[known].min() - _MARGIN, times[known].max() + _MARGIN
        edges = [float(first), *map(float, inner), float(last)]
        if any(a >= b for a, b in pairwise(edges)):
            raise ValueError(
                f"{where}: {len(deaths)} deaths with too few distinct times give the {num_bins} survival intervals "
                f"the edges {edges}, of which some are equal; a survival objective needs more patients"
            )
        return cls(tuple(edges))

    def __len__(self) -> int:
        return len(self.edges) - 1

    @property
    def inner(self) -> np.ndarray:
        """The edges between intervals ``[K - 1]``."""
        return np.asarray(self.edges[1:-1])

    def index(self, months: float) -> int:
        """The interval of a time; times beyond the outer edges belong to the outer intervals."""
        if math.isnan(months):
            raise ValueError("an unknown survival time has no interval")
        return int(np.searchsorted(self.inner, months, side="right"))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and checkpoints."""
        return {"edges": list(self.edges)}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> SurvivalBins:
        """Inverse of :meth:`to_dict`."""
        return cls(tuple(float(edge) for edge in value["edges"]))
