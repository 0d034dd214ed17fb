"""The survival likelihood against numbers by hand and its derivation, and what counts."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_utils.cases.case import Case
from data_utils.tables.survival_bins import SurvivalBins
from tests.utils.evaluation.evaluation_data import make_embeddings
from utils.training.objectives import SurvivalObjective
from utils.training.objectives.survival import survival_nll

BINS = SurvivalBins((0.0, 10.0, 20.0, 30.0, 100.0))


def case(**known):
    empty = torch.empty(0)
    return Case("id", "TCGA-XX", "TCGA-BRCA", empty, empty, **known)


def test_numbers_by_hand():
    """Hazards of one half: each interval is survived by half of those who reach it."""
    logits = torch.zeros(4, dtype=torch.float64)
    assert survival_nll(logits, 0, False).item() == pytest.approx(math.log(2))
    assert survival_nll(logits, 2, False).item() == pytest.approx(3 * math.log(2))
    assert survival_nll(logits, 2, True, alpha=0.5).item() == pytest.approx(0.5 * 3 * math.log(2))
    assert survival_nll(logits, 2, True, alpha=0.0).item() == pytest.approx(3 * math.log(2))
    assert survival_nll(logits, 3, True, alpha=1.0).item() == 0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-3, 3), min_size=4, max_size=4),  # beyond, the published clamp of 1e-7 acts
    st.integers(0, 3),
    st.booleans(),
    st.floats(0, 1),
)
def test_equals_the_likelihood_of_the_interval(values, interval, censored, alpha):
    """exp(-loss) is the probability of what was observed, interval by interval."""
    hazards = [1 / (1 + math.exp(-v)) for v in values]
    probability = 1.0
    for k in range(interval + 1):
        died_here = k == interval and not censored
        probability *= hazards[k] if died_here else 1 - hazards[k]
    expected = -math.log(max(probability, 1e-300)) * (1 - alpha if censored else 1)
    found = survival_nll(torch.tensor(values, dtype=torch.float64), interval, censored, alpha)
    assert found.item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("censored", [False, True])
@pytest.mark.parametrize("interval", range(4))
def test_gradients_equal_finite_differences(interval, censored):
    torch.manual_seed(interval)
    logits = torch.randn(4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: survival_nll(x, interval, censored, 0.3), logits)


def test_the_clamp_ends_losses_and_gradients_as_published():
    logits = torch.tensor([40.0, 0, 0, 0], requires_grad=True)  # sure of a death in the first interval
    loss = survival_nll(logits, 3, True, 0.0)
    assert loss.item() == pytest.approx(-math.log(1e-7))
    loss.backward()
    assert not logits.grad.any()


def test_reads_its_token_and_the_interval_of_the_case():
    torch.manual_seed(0)
    objective = SurvivalObjective(6, BINS, task=2, alpha=0.25)
    outputs = torch.randn(3, 6)
    loss = objective(outputs, case(duration=20.0, event=0))
    expected = survival_nll(objective.classifier(outputs[2]), 2, True, 0.25)
    assert loss.item() == pytest.approx(expected.item())
    with pytest.raises(ValueError, match="task token 2, the model has 1"):
        objective(outputs[:1], case(duration=20.0))


def test_unknown_survival_does_not_count():
    objective = SurvivalObjective(6, BINS)
    known = case(duration=1.0)
    assert objective.learns_from(known)
    assert not objective.learns_from(replace(known, duration=math.nan))
    with pytest.raises(ValueError, match="between 0 and 1"):
        SurvivalObjective(6, BINS, alpha=1.5)


def test_the_head_gives_the_curve_and_risk_of_the_hazards():
    torch.manual_seed(1)
    cases = make_embeddings(12, tasks=2, width=6)
    objective = SurvivalObjective(6, BINS, task=1)
    head = objective.heads()["survival"]
    hazards = objective.classifier(torch.from_numpy(cases.vectors[:, 1])).sigmoid().detach().numpy()
    alive = np.array([[np.prod(1 - row[: k + 1]) for k in range(4)] for row in hazards])
    np.testing.assert_allclose(head.alive(cases), alive, rtol=1e-5)
    known = ~np.isnan(cases.durations)
    np.testing.assert_allclose(head.survival(cases).risk, -alive.sum(axis=1)[known], rtol=1e-5)
    assert head.bins is BINS
