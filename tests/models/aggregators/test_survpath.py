"""SurvPath against loops over tokens."""

import pytest
import torch

from models.aggregators.survpath import SurvPath
from tests.models.aggregators.conftest import KEEP, gradients_reach_everything, randomise
from tests.models.aggregators.test_mcat import slow_groups
from tests.oracle import gelu, layer_norm, linear

D, GENES, DIM = 10, 12, 8
PATHWAYS = [[0, 1, 5], [3], [2, 5, 7, 11]]


def slow(features, genes, state, keep, keep_small):
    pathways = slow_groups(genes, PATHWAYS, state, keep)
    patches = [linear(x, state, "patch") for x in features]
    tokens = [layer_norm(t, state, "norm") for t in (*pathways, *patches)]
    inner = DIM // 2
    projected = [state["to_qkv.weight"] @ t for t in tokens]
    count = len(PATHWAYS)
    rows = []
    for i, token in enumerate(projected):
        seen = projected if i < count else projected[:count]
        scores = torch.stack([token[:inner] @ other[inner : 2 * inner] / inner**0.5 for other in seen]).exp()
        value = sum(s * other[2 * inner :] for s, other in zip(scores / scores.sum(), seen, strict=True))
        h = gelu(linear(layer_norm(value, state, "feed_forward.0"), state, "feed_forward.1")) * keep_small
        rows.append(layer_norm(linear(h, state, "feed_forward.4"), state, "feed_forward.5"))
    means = [sum(part) / len(part) for part in (rows[:count], rows[count:])]
    return torch.relu(linear(torch.cat(means), state, "hidden.0"))


@pytest.mark.parametrize("patches", [1, 2, 19])
@pytest.mark.parametrize("training", [False, True])
def test_equals_the_slow_version(double, scaled_dropout, patches, training):
    model = randomise(SurvPath(D, PATHWAYS, DIM, 6)).train(training)
    features, genes = torch.randn(patches, D), torch.randn(GENES)
    expected = slow(features, genes, model.state_dict(), *((KEEP, 0.9) if training else (1.0, 1.0)))
    torch.testing.assert_close(model(features, genes), expected, rtol=1e-11, atol=1e-11)


def test_sizes_are_the_published_ones():
    model = SurvPath(1536, PATHWAYS)
    assert tuple(model.to_qkv.weight.shape) == (384, 256)
    assert tuple(model.hidden[0].weight.shape) == (64, 256)
    assert model.output_dim == 64


def test_every_parameter_learns(double):
    assert gradients_reach_everything(SurvPath(D, PATHWAYS, DIM), torch.randn(5, D), torch.randn(GENES)) == []


def test_patch_order_does_not_matter(double):
    model = SurvPath(D, PATHWAYS, DIM).eval()
    features, genes = torch.randn(9, D), torch.randn(GENES)
    torch.testing.assert_close(model(features, genes), model(features.flip(0), genes), rtol=1e-12, atol=1e-12)


def test_an_empty_pathway_is_an_error():
    with pytest.raises(ValueError, match="at least one gene"):
        SurvPath(D, [[0], []])
