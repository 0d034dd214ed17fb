"""The Cox model of the probes against lifelines' own."""

import lifelines
import numpy as np
import pandas as pd
import pytest
from lifelines.fitters.coxph_fitter import SemiParametricPHFitter

from utils.evaluation.cox import CoxModel


def table(seed=0, patients=60, columns=4):
    """Times with ties, some of them censored."""
    generator = np.random.default_rng(seed)
    found = pd.DataFrame(generator.normal(size=(patients, columns)), columns=list("abcd")[:columns])
    found["duration"] = np.ceil(generator.exponential(10, patients) * np.exp(-found["a"]))
    return found.assign(event=generator.random(patients) < 0.6)


@pytest.mark.parametrize("strata", [None, ["stratum"]])
@pytest.mark.parametrize("ridge", [0.01, 1.0])
def test_coefficients_are_those_of_lifelines(strata, ridge):
    data = table()
    if strata:
        data["stratum"] = np.arange(len(data)) % 2
    ours = CoxModel(ridge).fit(data, "duration", "event", strata=strata, batch_mode=True)
    theirs = lifelines.CoxPHFitter(penalizer=ridge).fit(data, "duration", "event", strata=strata)
    np.testing.assert_allclose(ours.params_, theirs.params_, rtol=1e-5, atol=1e-7)
    assert ours.log_likelihood_ == pytest.approx(theirs.log_likelihood_, rel=1e-6)


def test_a_version_that_would_leave_the_penalty_out_is_refused(monkeypatch):
    monkeypatch.delattr(CoxModel, "_choose_gradient_calculator")
    assert CoxModel._choose_gradient_calculator is SemiParametricPHFitter._choose_gradient_calculator
    with pytest.raises(ImportError, match="cannot fit the survival probes"):
        CoxModel(0.1).fit(table(), "duration", "event", batch_mode=True)
