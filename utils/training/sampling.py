"""The order in which an epoch visits the training cases."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SITE_SAMPLING = ("natural", "balanced")


def epoch_order(sites: Sequence[str], seed: int, epoch: int, sampling: str = "natural") -> list[int]:
    """Positions of the cases in the order of one epoch.

    It depends on its arguments alone, so that a run that continues within an epoch finds its place.

    Args:
        sites: cancer site of every case.
        seed: of the run.
        epoch: counts from 0.
        sampling: ``natural`` visits every case once; ``balanced`` draws as many cases with replacement,
            each cancer site equally likely, so that small cohorts are not drowned by large ones.

    Raises:
        ValueError: ``sampling`` is something else.
    """
    if sampling not in SITE_SAMPLING:
        raise ValueError(f"site_sampling is {sampling!r}, should be one of {SITE_SAMPLING}")
    generator = np.random.default_rng([seed, epoch])
    if sampling == "natural":
        return generator.permutation(len(sites)).tolist()
    _, owner, counts = np.unique(np.asarray(sites), return_inverse=True, return_counts=True)
    shares = 1.0 / (len(counts) * counts[owner])
    return generator.choice(len(sites), len(sites), p=shares).tolist()


def case_order(
    sites: Sequence[str], kinds: Sequence[str | None], seed: int, epoch: int, site_sampling: str
) -> list[int]:
    """The order of one epoch; where there are ``kinds`` of patients, each is drawn as often as the others.

    A patient of weight ``N / (patients of the kind)`` is drawn ``N`` times with replacement, as SurvPath and MCAT do;
    kinds without patients do not count. Patients of no kind are one more.

    Args:
        sites: cancer site of every case.
        kinds: of every case; empty, or None throughout, for none.
        seed: of the run.
        epoch: counts from 0.
        site_sampling: see :func:`epoch_order`; without kinds.
    """
    if any(kind is not None for kind in kinds):
        return epoch_order([str(kind) for kind in kinds], seed, epoch, "balanced")
    return epoch_order(sites, seed, epoch, site_sampling)
