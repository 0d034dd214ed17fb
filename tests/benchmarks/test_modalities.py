"""The line of a cohort that was drawn several times."""

import argparse

import numpy as np
import pytest

from tests.benchmarks import modalities
from tests.benchmarks.linear_models import linear_models
from tests.benchmarks.modalities import Setting, cohorts, measure


def test_draws_are_averaged_with_their_standard_error(tmp_path, monkeypatch):
    args = argparse.Namespace(tables=None, rows=["clinical only"], work=tmp_path, draws=2, seeds=1, test=True)
    (draws,) = cohorts(args)
    assert [cohort.draw for cohort, _ in draws] == [0, 1]
    assert not np.array_equal(*(cohort.splits["test"].labels for cohort, _ in draws))
    values = {0: 0.7, 1: 0.9}  # nothing is trained
    monkeypatch.setattr(
        modalities, "train", lambda cohort, *rest: {"balanced_accuracy": (values[cohort.draw], np.nan)}
    )
    name, trained, single, every, ahead = measure(draws, [Setting("balanced")], args).strip("| ").split(" | ")
    assert (name, trained) == ("clinical only", "0.800 ± 0.100")
    known = [linear_models(c.splits, c.modalities, c.metrics)["balanced_accuracy"]["test"] for c, _ in draws]
    assert every == f"{np.mean(known):.3f} ± {abs(known[0] - known[1]) / 2:.3f}"
    assert float(ahead.split(" ± ")[0]) == pytest.approx(0.8 - float(single.split(" ± ")[0]), abs=0.0011)
