"""ABMIL against loops over patches."""

import pytest
import torch

from models.aggregators.abmil import ABMIL
from tests.models.aggregators.conftest import KEEP, gradients_reach_everything, randomise
from tests.oracle import linear

D = 12


def slow(features, state, keep):
    """One patch at a time, exponentials written out."""
    vectors, scores = [], []
    for x in features:
        h = torch.relu(linear(x, state, "patch.0")) * keep
        a = torch.tanh(linear(h, state, "attention.attention_a.0")) * keep
        b = torch.sigmoid(linear(h, state, "attention.attention_b.0")) * keep
        vectors.append(h)
        scores.append(linear(a * b, state, "attention.attention_c")[0].exp())
    pooled = sum(score * h for score, h in zip(scores, vectors, strict=True)) / sum(scores)
    return torch.relu(linear(pooled, state, "rho.0")) * keep


@pytest.mark.parametrize("patches", [1, 2, 41])
@pytest.mark.parametrize("training", [False, True])
def test_equals_the_slow_version(double, scaled_dropout, patches, training):
    model = randomise(ABMIL(D)).train(training)
    features = torch.randn(patches, D)
    expected = slow(features, model.state_dict(), KEEP if training else 1.0)
    torch.testing.assert_close(model(features), expected, rtol=1e-12, atol=1e-12)


def test_widths_are_those_of_the_mcat_family():
    shapes = {name: tuple(p.shape) for name, p in ABMIL(1536).named_parameters() if p.dim() == 2}
    assert shapes == {
        "patch.0.weight": (512, 1536),
        "attention.attention_a.0.weight": (256, 512),
        "attention.attention_b.0.weight": (256, 512),
        "attention.attention_c.weight": (1, 256),
        "rho.0.weight": (256, 512),
    }
    assert ABMIL(1536).output_dim == 256


def test_every_parameter_learns_and_order_does_not_matter(double):
    model = ABMIL(D).eval()
    features = torch.randn(9, D)
    shuffled = features[torch.randperm(9)]
    torch.testing.assert_close(model(features), model(shuffled), rtol=1e-12, atol=1e-12)
    # A softmax does not see what is added to all its scores.
    assert gradients_reach_everything(model, features) in ([], ["attention.attention_c.bias"])


def test_attention_sums_to_one(double):
    model = ABMIL(D).eval()
    weights = model.attention.weights(model.patch(torch.randn(5, D)))
    assert weights.shape == (5,)
    assert weights.sum().item() == pytest.approx(1, abs=1e-12)
