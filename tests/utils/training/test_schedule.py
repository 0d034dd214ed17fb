"""The learning rate over a run."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.training.schedule import WarmupCosine

PEAK = 1e-4
# Measured with the published settings: lr 1e-4, 30 epochs; in units of 1e-5.
PUBLISHED = (
    "0.5 1.45 2.4 3.35 4.3 5.25 6.2 7.15 8.1 9.05 10.0 10.06 10.0 9.82 9.51 9.10 8.59 7.99 7.31 6.59 5.82 5.03 "
    "4.24 3.48 2.75 2.07 1.47 0.96 0.55 0.25"
)


def make_optimizer(lr=PEAK, groups=1):
    parameters = [{"params": [torch.nn.Parameter(torch.zeros(1))]} for _ in range(groups)]
    return torch.optim.AdamW(parameters, lr=lr)


def curve(num_epochs, lr=PEAK, first=0):
    schedule = WarmupCosine(make_optimizer(lr), lr, num_epochs, first)
    rates = []
    for _ in range(first, num_epochs):
        rates.append(schedule.lr)
        schedule.step()
    return rates


def test_thirty_epochs_as_published():
    rates = [rate * 1e5 for rate in curve(30)]
    assert rates == pytest.approx([float(x) for x in PUBLISHED.split()], abs=0.006)
    assert rates[0] == pytest.approx(0.5) and rates[10] == pytest.approx(10.0)


@pytest.mark.parametrize("num_epochs", [1, 2, 3, 10, 30])
def test_restored_by_position_equals_uninterrupted(num_epochs):
    whole = curve(num_epochs)
    for first in range(num_epochs):
        assert curve(num_epochs, first=first) == whole[first:]


def test_restored_after_the_optimizer_was_loaded():
    """The optimiser's state carries a learning rate and a base rate of its own."""
    schedule = WarmupCosine(optimizer := make_optimizer(), PEAK, 30)
    rates = []
    for _ in range(14):
        rates.append(schedule.lr)
        schedule.step()
    other = make_optimizer()
    other.load_state_dict(optimizer.state_dict())
    assert WarmupCosine(other, PEAK, 30, 14).lr == schedule.lr == curve(30)[14]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 120), st.floats(1e-6, 1e-1))
def test_never_above_the_peak_and_low_at_the_end(num_epochs, lr):
    rates = curve(num_epochs, lr)
    assert len(rates) == num_epochs and all(0 < rate <= 1.01 * lr * (1 + 1e-9) for rate in rates)
    assert rates[0] == pytest.approx(lr / 20)
    if num_epochs >= 2:
        assert max(rates) == pytest.approx(lr, rel=0.011)
    if num_epochs >= 12:
        assert rates[-1] < 0.2 * lr and rates[-1] == min(rates[num_epochs // 3 + 2 :])


def test_warm_up_takes_a_third_of_a_short_run(caplog):
    with caplog.at_level("INFO"):
        rates = curve(12)
    assert rates.index(max(rates[:5])) == 4 and "shortened from 10 to 4" in caplog.text


def test_every_parameter_group_follows():
    optimizer = make_optimizer(groups=2)
    schedule = WarmupCosine(optimizer, PEAK, 30)
    for _ in range(12):
        schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == [schedule.lr] * 2


def test_is_quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        curve(12)
