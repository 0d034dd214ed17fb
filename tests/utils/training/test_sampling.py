"""Orders of an epoch: complete, balanced, repeatable."""

from collections import Counter

import pytest

from utils.training.sampling import epoch_order

SITES = ["breast"] * 90 + ["brain"] * 10


def test_natural_order_visits_every_case_once():
    assert sorted(epoch_order(SITES, seed=3, epoch=0)) == list(range(100))


@pytest.mark.parametrize("sampling", ["natural", "balanced"])
def test_order_depends_on_seed_and_epoch_alone(sampling):
    order = epoch_order(SITES, 1, 2, sampling)
    assert order == epoch_order(SITES, 1, 2, sampling)
    assert order != epoch_order(SITES, 1, 3, sampling)
    assert order != epoch_order(SITES, 2, 2, sampling)


def test_balanced_order_draws_sites_equally_often():
    drawn = Counter(SITES[i] for epoch in range(50) for i in epoch_order(SITES, 0, epoch, "balanced"))
    assert drawn.total() == 5000
    assert drawn["brain"] == pytest.approx(2500, abs=200)  # 5.7 standard deviations


def test_balanced_order_uses_all_cases_of_a_site():
    drawn = {i for epoch in range(50) for i in epoch_order(SITES, 0, epoch, "balanced")}
    assert drawn == set(range(100))


def test_unknown_sampling_is_refused():
    with pytest.raises(ValueError, match="site_sampling"):
        epoch_order(SITES, 0, 0, "uniform")
