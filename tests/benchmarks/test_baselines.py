"""The rows of the baselines: one for each model, measured on what it reads."""

import pytest
import torch

from models.aggregators import available_aggregators
from tests.benchmarks import baselines


def test_every_baseline_has_a_row():
    rows = list(baselines.parts())
    assert {row.split("/")[1] for row in rows} == set(baselines.names()) < set(available_aggregators())
    patches = {row.split("/")[1]: int(row.split("/")[2]) for row in rows}
    assert patches["snn"] == patches["clinical_mlp"] == 0 and patches["abmil"] == 10_000
    assert patches["longnetvit_tuned"] == 1024


@pytest.mark.parametrize("name", ["mcat", "survpath", "clinical_mlp", "abmil_cat"])
def test_a_row_is_a_training_step(name, monkeypatch):
    monkeypatch.setattr(baselines, "PATCHES", 30)
    steps = []

    def once(work, repeats):
        work()
        steps.append(repeats)
        return {"seconds": 0.0}

    monkeypatch.setattr(baselines, "row", once)
    monkeypatch.setattr(torch.Tensor, "backward", lambda loss: steps.append(loss.item()))
    baselines.measure(name, 3)
    loss, repeats = steps
    assert 0 < loss < 5 and repeats == 3
