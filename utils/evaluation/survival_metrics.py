"""Survival metrics beyond Harrell's index: censoring-weighted, time-dependent, and of whole survival curves.

Values come from scikit-survival. The censoring distribution is that of training and scored patients
together. Bootstrap intervals draw the scored patients again and keep that distribution; they use the
vectorised forms below, which a test compares with scikit-survival on drawn patients. What cannot be
evaluated is NaN with a reason, never a zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sksurv.metrics import concordance_index_ipcw, cumulative_dynamic_auc, integrated_brier_score
from sksurv.nonparametric import CensoringDistributionEstimator
from sksurv.util import Surv

from utils.evaluation import bootstrap


@dataclass(frozen=True, eq=False)
class FollowUp:
    """Known survival of some patients: months ``[n]`` and 1 for died, 0 for censored ``[n]``."""

    durations: np.ndarray
    events: np.ndarray

    def __post_init__(self) -> None:
        if np.isnan(self.durations).any():
            raise ValueError("survival metrics are for patients of known survival")

    def __len__(self) -> int:
        return len(self.durations)

    def joined(self, other: FollowUp) -> FollowUp:
        """The patients of both."""
        return FollowUp(
            np.concatenate([self.durations, other.durations]), np.concatenate([self.events, other.events])
        )

    @property
    def structured(self) -> np.ndarray:
        """As scikit-survival wants it."""
        return Surv.from_arrays(self.events.astype(bool), self.durations)


@dataclass(frozen=True)
class Measured:
    """A metric with the bounds of its 95 % bootstrap interval; NaN where ``reason`` is not empty."""

    value: float = math.nan
    ci_low: float = math.nan
    ci_high: float = math.nan
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Curves:
    """Predicted survival of the scored patients at chosen times.

    Attributes:
        times: months ``[K]``, ascending.
        alive: probability to be alive after them ``[n, K]``.
        risk: what orders the patients at each time ``[n, K]``; higher dies earlier.
    """

    times: np.ndarray
    alive: np.ndarray
    risk: np.ndarray

    def within(self, scored: FollowUp) -> Curves:
        """The times strictly inside the follow-up of the scored patients; others cannot be scored."""
        first, last = (
            (scored.durations.min(), scored.durations.max()) if len(scored) else (math.inf, -math.inf)
        )
        keep = (self.times > first) & (self.times < last)
        return Curves(self.times[keep], self.alive[:, keep], self.risk[:, keep])


def survpath_curves(alive: np.ndarray, inner_edges: np.ndarray, scored: FollowUp) -> Curves:
    """Survival after four bins ``[n, 4]`` at the times at which SurvPath's evaluation scores it.

    Its Brier times run one edge early: what is predicted for the end of the first interval is scored at the
    shortest time, and so on. To compare with its published numbers only.
    """
    first, last = scored.durations.min() + 1e-4, scored.durations.max() - 1e-4
    times = np.array([first, *inner_edges[:2], last])
    return Curves(times, alive, np.column_stack([np.zeros(len(alive)), 1 - alive[:, 1:]]))


def concordance_ipcw(train: FollowUp, scored: FollowUp, risk: np.ndarray, seed: int) -> Measured:
    """Uno's concordance index of a risk ``[n]`` (higher dies earlier), without truncation."""
    everyone = train.joined(scored)

    def value() -> float:
        return concordance_index_ipcw(everyone.structured, scored.structured, risk)[0]

    def metric(
        durations: np.ndarray, events: np.ndarray, risk: np.ndarray, weights: np.ndarray, counts: np.ndarray
    ) -> np.ndarray:
        return bootstrap.concordance(durations, events, risk, counts, weights)

    if reason := _not_ordered(scored):
        return Measured(reason=reason)
    try:
        weights = censoring_weights(everyone, scored)
    except ValueError as error:
        return Measured(reason=str(error))
    return _measure(value, metric, (scored.durations, scored.events, risk, weights**2), seed)


def dynamic_auc(train: FollowUp, scored: FollowUp, curves: Curves, seed: int) -> Measured:
    """Time-dependent AUC (died until a time versus alive after it), averaged over the times."""
    everyone = train.joined(scored)
    times, risk = curves.times, curves.risk

    def value() -> float:
        return cumulative_dynamic_auc(everyone.structured, scored.structured, risk, times)[1]

    def metric(
        durations: np.ndarray, events: np.ndarray, risk: np.ndarray, weights: np.ndarray, counts: np.ndarray
    ) -> np.ndarray:
        return mean_dynamic_auc(durations, events, risk, weights, times, counts)

    if not len(times):
        return Measured(reason="none of the times lies within the follow-up of the scored patients")
    for t in times:
        if not ((scored.events == 1) & (scored.durations <= t)).any():
            return Measured(reason=f"none of the scored patients died within {t:.1f} months")
    try:
        weights = censoring_weights(everyone, scored)
    except ValueError as error:
        return Measured(reason=str(error))
    return _measure(value, metric, (scored.durations, scored.events, risk, weights), seed)


def integrated_brier(train: FollowUp, scored: FollowUp, curves: Curves, seed: int) -> Measured:
    """Brier score of the survival curves, integrated over the times; lower is better."""
    everyone = train.joined(scored)

    def value() -> float:
        return integrated_brier_score(everyone.structured, scored.structured, curves.alive, curves.times)

    if len(curves.times) < 2:
        return Measured(reason="fewer than two of the times lie within the follow-up of the scored patients")
    try:
        contributions = brier_contributions(everyone, scored, curves)
    except ValueError as error:
        return Measured(reason=str(error))
    return _measure(value, _mean, (contributions,), seed)


# ---------------------------------------------------------------------------- vectorised forms
def censoring_weights(everyone: FollowUp, scored: FollowUp) -> np.ndarray:
    """``1 / G(t)`` of every patient who died, 0 of others ``[n]``; G is the distribution of ``everyone``."""
    if everyone.events.all():
        return np.ones(len(scored))  # nobody is censored
    return CensoringDistributionEstimator().fit(everyone.structured).predict_ipcw(scored.structured)


def brier_contributions(everyone: FollowUp, scored: FollowUp, curves: Curves) -> np.ndarray:
    """What every patient adds to the integrated Brier score ``[n]``; their mean is the score."""
    if everyone.events.all():
        at_times, at_own = np.ones(len(curves.times)), np.ones(len(scored))
    else:
        censoring = CensoringDistributionEstimator().fit(everyone.structured)
        at_times, at_own = (censoring.predict_proba(t) for t in (curves.times, scored.durations))
        at_times, at_own = (np.where(g == 0, np.inf, g) for g in (at_times, at_own))
    died = (scored.durations[:, None] <= curves.times) & (scored.events == 1)[:, None]
    alive = scored.durations[:, None] > curves.times
    scores = curves.alive**2 * died / at_own[:, None] + (1 - curves.alive) ** 2 * alive / at_times
    return np.trapezoid(scores, curves.times, axis=1) / (curves.times[-1] - curves.times[0])


def mean_dynamic_auc(
    durations: np.ndarray,
    events: np.ndarray,
    risk: np.ndarray,
    weights: np.ndarray,
    times: np.ndarray,
    counts: np.ndarray,
) -> np.ndarray:
    """:func:`dynamic_auc` of resamples ``[B]``; NaN where somebody has to die before a time and did not."""
    areas = []
    for k, t in enumerate(times):
        died, alive = (durations <= t) & (events == 1), durations > t
        score = risk[:, k]
        won = (score[died][:, None] > score[alive]) + 0.5 * (score[died][:, None] == score[alive])
        cases, controls = counts[:, died] * weights[died], counts[:, alive]
        pairs = cases.sum(axis=1) * controls.sum(axis=1)
        right = ((cases @ won) * controls).sum(axis=1)
        areas.append(np.divide(right, pairs, out=np.full(len(counts), np.nan), where=pairs > 0))
    if len(times) == 1:
        return areas[0]
    alive_share = survival_at(durations, events, times, counts)
    lost = -np.diff(alive_share, axis=1, prepend=1.0)
    whole = 1 - alive_share[:, -1]
    total = (np.stack(areas, axis=1) * lost).sum(axis=1)
    return np.divide(total, whole, out=np.full(len(counts), np.nan), where=whole > 0)


def survival_at(
    durations: np.ndarray, events: np.ndarray, times: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """Kaplan-Meier estimates of resamples at some times ``[B, K]``."""
    deaths = np.unique(durations[events == 1])
    at_risk = counts @ (durations[:, None] >= deaths)
    died = counts @ ((durations[:, None] == deaths) & (events == 1)[:, None])
    factors = 1 - np.divide(died, at_risk, out=np.zeros(died.shape), where=at_risk > 0)
    curve = np.concatenate([np.ones((len(counts), 1)), factors.cumprod(axis=1)], axis=1)
    return curve[:, np.searchsorted(deaths, times, side="right")]


def _mean(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return counts @ values / counts.sum(axis=1)


def _not_ordered(scored: FollowUp) -> str:
    if len(scored) and (scored.events == 1).any():
        first = scored.durations[scored.events == 1].min()
        later = (scored.durations > first) | ((scored.durations == first) & (scored.events == 0))
        if later.any():
            return ""
    return "no two scored cases of which one is known to have died earlier"


def _measure(
    value: Callable[[], float], metric: bootstrap.CountMetric, arrays: tuple[np.ndarray, ...], seed: int
) -> Measured:
    """The value with its interval, or why there is none."""
    if not len(arrays[0]):
        return Measured(reason="no case of known survival to score")
    try:
        found = float(value())
    except (ValueError, ZeroDivisionError) as error:  # scikit-survival says what the data lack
        return Measured(reason=f"not evaluable: {error}")
    if not math.isfinite(found):
        return Measured(reason="not evaluable: the censoring distribution reaches zero")
    return Measured(found, *bootstrap.bootstrap_interval(metric, arrays, bootstrap.RESAMPLES, seed))
