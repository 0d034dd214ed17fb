"""Planted cohorts hold the signal where their row says, and nowhere else."""

import json

import numpy as np
import pytest

from data_utils.cases.splits import read_split
from data_utils.features.store import read_features
from tests.benchmarks.linear_models import linear_models
from tests.benchmarks.planted_modalities import MODALITIES, ROWS, SPLITS, plant, write_planted


def accuracy(cohort, names):
    found = linear_models(cohort.splits(), names, ["balanced_accuracy"], components=[20])
    return found["balanced_accuracy"]["test"]


@pytest.mark.parametrize("row", ROWS)
def test_the_signal_is_where_the_row_says(row):
    holders, rule = ROWS[row]
    cohorts = [plant(row, seed) for seed in range(4)]
    single = {name: np.mean([accuracy(cohort, (name,)) for cohort in cohorts]) for name in MODALITIES}
    both = np.mean([accuracy(cohort, MODALITIES) for cohort in cohorts])
    for name, value in single.items():
        if name not in holders or rule == "product":
            assert value == pytest.approx(0.5, abs=0.07), name
        else:
            assert value > (0.62 if len(holders) == 2 else 0.85), name
    if rule == "product":
        assert both == pytest.approx(0.5, abs=0.07)
    elif len(holders) == 2:
        assert both > max(single.values())
    again = plant(row, 0)
    assert np.array_equal(again.labels, cohorts[0].labels)
    assert np.array_equal(again.patches, cohorts[0].patches)


def test_what_is_written_is_what_was_planted(tmp_path):
    cohort = plant("images + genes", 0)
    files = write_planted(cohort, tmp_path, 0)
    patients = [p for split in SPLITS for p in read_split(files[f"{split}_json"])]
    assert [p.label for p in patients] == cohort.labels.tolist()
    features = read_features(patients[3].slides[0]).features
    np.testing.assert_allclose(features, cohort.patches[3], atol=0.01)
    assert len(json.loads(files["test_json"].read_text())["data"]) == SPLITS["test"]
