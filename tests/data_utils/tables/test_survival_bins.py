"""Survival bins against pandas' quantile cuts."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from data_utils.tables.survival_bins import SurvivalBins


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(8, 60))
def test_equal_the_cuts_of_the_published_baselines(seed, n):
    rng = np.random.default_rng(seed)
    durations, events = rng.integers(0, 200, n) / 4, rng.integers(0, 2, n)
    deaths = durations[events == 1]
    assume(len(np.unique(deaths)) > 6)
    _, edges = pd.qcut(deaths, 4, retbins=True, labels=False, duplicates="drop")
    assume(len(edges) == 5)
    edges[0], edges[-1] = durations.min() - 1e-6, durations.max() + 1e-6
    assume((np.diff(edges) > 0).all())
    expected = pd.cut(durations, bins=edges, labels=False, right=False, include_lowest=True)
    bins = SurvivalBins.fit(durations, events, "BRCA")
    assert bins.edges == pytest.approx(tuple(edges), abs=1e-12)
    assert [bins.index(t) for t in durations] == expected.tolist()
    assert SurvivalBins.from_dict(bins.to_dict()) == bins


def test_open_ended_bins_take_later_patients():
    bins = SurvivalBins.fit([4, 8, 12, 16, 20], [1] * 5, "BRCA", open_ended=True)
    assert bins.edges == (0, 8, 12, 16, math.inf)
    assert [bins.index(t) for t in (0, 7.9, 8, 500)] == [0, 0, 1, 3]


def test_unknown_times_are_left_out_of_the_edges_and_have_no_bin():
    bins = SurvivalBins.fit([4, 8, 12, 16, 20, math.nan], [1] * 6, "BRCA")
    assert bins.inner.tolist() == [8, 12, 16]
    with pytest.raises(ValueError, match="no interval"):
        bins.index(math.nan)


@pytest.mark.parametrize(
    ("durations", "events", "message"),
    [([3, 4, 5], [0, 0, 0], "BRCA: no patient"), ([3, 3, 3, 3, 9], [1] * 5, "BRCA: 5 deaths with too few")],
)
def test_all_censored_and_tied_edges_are_errors(durations, events, message):
    with pytest.raises(ValueError, match=message):
        SurvivalBins.fit(durations, events, "BRCA")
